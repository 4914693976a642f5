"""What to predict: folders, patterns, tables, packs, lists and arrays; others are named."""

import gzip
import io
import os
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from gzjax import tree as trees
from gzjax.data import catalogue, listing, packing, packs, rows
from gzjax.data.dataset import Data
from gzjax.data.framing import Framing
from gzjax.data.images import read_image
from gzjax.data.listing import list_images
from gzjax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Three images, one of them deeper, and two files that are none."""
    (tmp_path / "more").mkdir()
    for name in ("2.jpg", "more/10.PNG", "3.jpeg", "notes.txt", ".hidden.jpg"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_a_folder_is_searched_with_all_in_it(folder):
    for what in (folder, str(folder)):
        found = list_images(what)
        assert found.ids == ["2", "3", "10"]
        assert found.files == [str(folder / name) for name in ("2.jpg", "3.jpeg", "more/10.PNG")]
        assert found.pack is found.pixels is None


def test_links_to_folders_are_followed_each_once(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "77.jpg").touch()
    (folder / "linked").symlink_to(other)
    (other / "back").symlink_to(folder)
    assert list_images(folder).ids == ["2", "3", "77", "10"]
    (folder / "1.jpg").symlink_to(folder / "gone")  # a row with a fault, later
    assert list_images(folder).ids == ["1", "2", "3", "77", "10"]


def test_patterns_and_single_files(folder, monkeypatch):
    assert list_images(f"{folder}/*.jp*g").ids == ["2", "3"]
    assert list_images(f"{folder}/**/*").ids == ["2", "3", "10"]
    assert list_images(folder / "3.jpeg").ids == ["3"]
    brackets = folder / "run[1]"
    brackets.mkdir()
    (brackets / "t.csv").write_text("file\n../3.jpeg\n")
    assert list_images(brackets / "t.csv").ids == ["3"]
    shutil.rmtree(brackets)
    monkeypatch.chdir(folder)
    assert list_images("./*.jpg").files == ["./2.jpg"]
    assert list_images(folder / "more" / "10.PNG").files == [str(folder / "more" / "10.PNG")]


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("column", rows.FILE_COLUMNS)
def test_tables_name_files_beside_them(folder, suffix, column):
    path = folder / f"table.{suffix}"
    table = pd.DataFrame({column: ["2.jpg", str(folder / "3.jpeg"), "gone.jpg"], "ra": 1.5})
    save = table.to_parquet if suffix == "parquet" else table.to_csv
    save(path, index=False)
    found = list_images(str(path))
    assert found.ids == ["2", "3", "gone"]
    assert found.files == [str(folder / name) for name in ("2.jpg", "3.jpeg", "gone.jpg")]


@pytest.mark.parametrize("name", rows.ID_COLUMNS)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tables_name_galaxies(folder, suffix, name):
    path = folder / f"table.{suffix}"
    table = pd.DataFrame({"file": ["2.jpg", "3.jpeg"], name: [587722981742084096, 9]})
    save = table.to_parquet if suffix == "parquet" else table.to_csv
    save(path, index=False)
    assert list_images(path).ids == ["587722981742084096", "9"]
    table.insert(0, "image", "other")  # the first name of each list counts
    table.insert(0, "id", ["a", "b"]) if name != "id" else None
    save(path, index=False)
    assert list_images(path).ids == ["587722981742084096", "9"]
    assert list_images(path).files == [str(folder / "2.jpg"), str(folder / "3.jpeg")]


def test_of_several_columns_the_most_telling_counts(folder):
    ids = {name: [name] for name in ("id", "dr7objid", "objid", "iauname", "id_str", "GalaxyID")}
    files = {
        name: [name] for name in ("image", "image_path", "filename", "path", "file", "file_loc")
    }
    assert list_images(pd.DataFrame({"ID": ["7"], "File": ["a.jpg"]})).ids == ["7"]
    while ids:
        assert list_images(pd.DataFrame(ids | files)).ids == [[*ids][-1]]
        assert list_images(pd.DataFrame(ids | files)).files == [[*files][-1]]
        ids.popitem(), files.popitem()


def test_commas_at_the_end_of_lines_shift_nothing(folder):
    (folder / "t.csv").write_text("GalaxyID,file\n7,2.jpg,\n8,3.jpeg,\n")
    found = list_images(folder / "t.csv")
    assert found.ids == ["7", "8"]
    assert found.files == [str(folder / "2.jpg"), str(folder / "3.jpeg")]


def test_lists_of_paths_are_taken_as_they_are(folder):
    names = ["gone.jpg", str(folder / "notes.txt"), str(folder / "2.jpg")]
    for paths in (
        names,
        tuple(names),
        [folder.__class__(name) for name in names],
        pd.Series(names),
        np.array(names),
        iter(names),
    ):
        found = list_images(paths)
        assert found.ids == ["gone", "notes", "2"]
        assert found.files == names  # those that are not there are faults of their rows
    assert found.framed(Framing(0.5, 8)).framing == Framing(0.5, 8)


def test_tables_in_memory_name_files_from_here(folder):
    table = pd.DataFrame({"ra": [1.5, 2.5], "file": [folder / "2.jpg", "x/3.jpeg"]})
    assert list_images(table).ids == ["2", "3"]
    assert list_images(table).files == [str(folder / "2.jpg"), "x/3.jpeg"]
    assert list_images(table.assign(id=[7, 8])).ids == ["7", "8"]
    indexed = table.set_index(pd.Index(["a", "b"], name="GalaxyID"))
    assert list_images(indexed).ids == ["a", "b"]
    assert list_images(indexed.assign(GalaxyID=["c", "d"])).ids == ["c", "d"]
    assert list_images(table.set_index(pd.Index(["a", "b"], name="other"))).ids == ["2", "3"]


def test_arrays_are_numbered_and_framed_as_files_are(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3), np.uint8)
    found = list_images(pixels)
    assert found.ids == ["0", "1", "2"]
    assert found.files == []
    images = found.framed(Framing(0.7, 16))
    assert images.shape == (3, 16, 16, 3)
    for row in range(3):
        Image.fromarray(pixels[row]).save(tmp_path / "a.png")
        expected = read_image(tmp_path / "a.png", Framing(0.7, 16))
        np.testing.assert_array_equal(images[row], expected)


@pytest.mark.parametrize(
    ("what", "found"),
    [
        (np.zeros((2, 40, 40, 3), np.float32), r"found float32\[2, 40, 40, 3\]"),
        (np.zeros((2, 40, 40, 4), np.uint8), r"found uint8\[2, 40, 40, 4\]"),
        (np.zeros((40, 40, 3), np.uint8), r"found uint8\[40, 40, 3\]"),
        (np.zeros((0, 40, 40, 3), np.uint8), "expected at least one image, found none"),
        ([], "expected at least one image, found none"),
        (7, "expected a path, a list of paths, .* found int"),
        (None, "expected a path, a list of paths, .* found NoneType"),
        (["a.jpg", 7], "row 2, file: expected text, found int"),
        (["a.jpg", None], "row 2 has nothing in file"),
        (["a/1.jpg", "b/1.png"], r"a/1\.jpg and b/1\.png are images of one galaxy, 1; a table"),
        (["a\n.jpg"], "expected a name in UTF-8, without control characters"),
        (pd.DataFrame({"file": ["a\n.jpg"], "id": [1]}), "expected a name in UTF-8, without"),
        (b"images", "row 1, file: expected text, found int"),
        (
            pd.DataFrame({"ra": [1]}),
            "expected a column of files, named one of file_l.*; found ra",
        ),
        (pd.DataFrame({"file": ["a.jpg"], "id": [[1, 2]]}), "row 1, id: expected text or a whole"),
    ],
)
def test_what_python_cannot_list_is_told(what, found):
    with pytest.raises(UserError, match=f"^images: .*{found}") as raised:
        list_images(what)
    assert "\n" not in str(raised.value)


def test_the_digest_changes_with_what_is_listed(folder):
    names = [str(folder / "2.jpg"), str(folder / "3.jpeg")]
    table = pd.DataFrame({"file": names, "id": ["2", "x"]})
    pixels = np.zeros((2, 20, 20, 3), np.uint8)
    digests = [
        list_images(what).digest
        for what in (names, names[::-1], names[:1], ["3.jpeg", "2.jpg"], table, pixels, pixels + 1)
    ]
    digests.append(list_images(pixels.reshape(2, 40, 10, 3)).digest)
    for name in (folder, folder / "more", folder / "gal\udce9"):
        digests.append(listing.Listing(["2", "3"], [], name).digest)
    assert len(set(digests)) == len(digests)
    assert list_images(list(names)).digest == digests[0]
    assert list_images(pixels.copy()).digest == digests[5]


def test_what_cannot_be_listed_is_told(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    pd.DataFrame({"ra": [1.0]}).to_csv(folder / "sky.csv")
    pd.DataFrame({"file": ["2.jpg", None]}).to_csv(folder / "holes.csv")
    pd.DataFrame({"file": []}).to_csv(folder / "none.csv")
    files = {"file": ["2.jpg", "3.jpeg"]}
    for suffix, name in (("csv", "GalaxyID"), ("parquet", "id_str")):
        table = pd.DataFrame({**files, name: ["7", None]})
        (table.to_csv if suffix == "csv" else table.to_parquet)(folder / f"nobody.{suffix}")
    pd.DataFrame({**files, "objid": [1.5e17, 2.5e17]}).to_parquet(folder / "floats.parquet")
    pd.DataFrame({**files, "id": ["1", "2\r3"]}).to_parquet(folder / "lines.parquet")
    pd.DataFrame({**files, "GalaxyID": ["7", "7"]}).to_parquet(folder / "twice.parquet")
    integers = pa.table({**files, "id": pa.array([7, None])})
    pyarrow.parquet.write_table(integers, folder / "nulls.parquet")
    lists = pa.table({**files, "GalaxyID": [[1, 2], [3]]})
    pyarrow.parquet.write_table(lists, folder / "lists.parquet")
    structures = pa.table({"file": [{"a": 1}, {"a": 2}]})
    pyarrow.parquet.write_table(structures, folder / "structures.parquet")
    (folder / "damaged.parquet").write_bytes(b"PAR1")
    compressed = gzip.compress(os.urandom(2000))
    (folder / "truncated.csv.gz").write_bytes(compressed[:-500])
    (folder / "half").mkdir()
    (folder / "half" / packs.UNFINISHED).write_text("{}")
    (folder / "more" / "2.jpg").write_bytes(b"")
    for what, expected in (
        (folder, "are images of one galaxy, 2"),
        (folder / "empty", "no image in this folder"),
        (folder / "nowhere", "expected a folder, a pattern that fits images, or a table"),
        (f"{folder}/*.txt", "expected a folder, a pattern that fits images, or a table"),
        (folder / "notes.txt", "expected an image"),
        (folder / "nowhere.csv", "no such file; expected a table"),
        (folder / "sky.csv", "expected a column of files.*found Unnamed: 0, ra"),
        (folder / "holes.csv", "row 2 has nothing in file"),
        (folder / "none.csv", "expected at least one image, found none"),
        (folder / "nobody.csv", "row 2 has nothing in GalaxyID"),
        (folder / "nobody.parquet", "row 2 has nothing in id_str"),
        (folder / "nulls.parquet", "row 2 has nothing in id$"),
        (folder / "floats.parquet", "objid is a column of floating-point numbers"),
        (folder / "lines.parquet", "expected a name in UTF-8, without control characters"),
        (folder / "twice.parquet", r"2\.jpg and .*3\.jpeg are images of one galaxy, 7"),
        (folder / "lists.parquet", "row 1, GalaxyID: expected text or a whole number, found nda"),
        (folder / "structures.parquet", "row 1, file: expected text, found dict"),
        (folder / "damaged.parquet", "not readable as a table: "),
        (folder / "truncated.csv.gz", "not readable as a table: Compressed file ended"),
        (folder / "half", "this pack is half-written"),
    ):
        with pytest.raises(UserError, match=expected) as raised:
            list_images(what)
        assert str(raised.value).startswith(str(what))
        assert "\n" not in str(raised.value)
        assert "--" not in str(raised.value)


def test_galaxies_may_be_called_like_nothing(folder):
    (folder / "t.csv").write_text("file,GalaxyID\n2.jpg,NA\n3.jpeg,007\n")
    assert list_images(folder / "t.csv").ids == ["NA", "007"]
    (folder / "t.csv").write_text("file,GalaxyID\n2.jpg,070\n3.jpeg,007\n")
    assert list_images(folder / "t.csv").ids == ["070", "007"]


def test_a_manifest_alone_makes_no_pack(folder):
    (folder / packs.MANIFEST).write_text("{}")
    assert list_images(str(folder)).ids == ["2", "3", "10"]


def four_galaxies(crowd):
    """Of a run, cut out already; their images are in memory."""
    return Data(
        ids=("d", "c", "b", "a"),
        images=np.random.default_rng(0).integers(0, 256, (4, 9, 9, 3), np.uint8),
        votes=crowd[:4].astype(np.float32),
        splits={},
        left_out=pd.DataFrame(columns=catalogue.LEFT_OUT_COLUMNS),
        label="",
        tree=trees.load("gz2"),
        framing=Framing(0.5, 9),
    )


def test_a_pack_is_listed_by_its_ids_whatever_its_tree(tmp_path, crowd):
    data = four_galaxies(crowd)
    pixels = data.images
    packing.write(tmp_path / "pack", data)
    found = list_images(tmp_path / "pack")
    assert found == listing.Listing(["d", "c", "b", "a"], [], tmp_path / "pack")
    np.testing.assert_array_equal(found.framed(Framing(0.5, 9))[1], pixels[1])
    assert found.framing(Framing(1.0, 128)) == Framing(0.5, 9)  # its own, whatever is wanted
    with pytest.raises(UserError, match=r"^crop: 1\.0, but"):
        found.framed(Framing(1.0, 9))
    # Of one in two catalogues, which a pack holds twice, the first.
    packing.write(tmp_path / "two", data._replace(ids=("d", "c", "d", "a")))
    once = list_images(tmp_path / "two")
    assert once.ids == ["d", "c", "a"]
    for part, places in ((once, [0, 1, 3]), (once.part(range(1, 3)), [1, 3])):
        read = part.framed(Framing(0.5, 9))
        np.testing.assert_array_equal([read[n] for n in range(len(places))], pixels[places])
    shutil.rmtree(tmp_path / "pack")
    packing.write(tmp_path / "pack", data._replace(images=255 - pixels))
    again = list_images(tmp_path / "pack").framed(Framing(0.5, 9))
    np.testing.assert_array_equal(again[1], 255 - pixels[1])


def test_names_that_are_no_utf8_are_told(tmp_path):
    name = b"gal\xe9.jpg".decode(errors="surrogateescape")
    try:
        (tmp_path / name).write_bytes(b"")
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    with pytest.raises(UserError, match=r"gal\\udce9.*: expected a name in UTF-8"):
        list_images(str(tmp_path))
    with pytest.raises(UserError, match="expected a name in UTF-8"):
        catalogue.find_images(tmp_path)


def parquet_of(file, names, shades, **columns):
    """A Parquet file of encoded images of one grey each, as Hugging Face datasets write them."""
    cells = []
    for name, shade in zip(names, shades, strict=True):
        stream = io.BytesIO()
        Image.new("RGB", (20, 20), (shade,) * 3).save(stream, "PNG")
        cells.append({"bytes": stream.getvalue(), "path": f"{name}.png"})
    table = pa.table({"image": pa.array(cells), **columns})
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, file, row_group_size=2)


def test_images_inside_parquet_files_are_listed(tmp_path):
    parquet_of(tmp_path / "data" / "a.parquet", "xyz", (10, 20, 30), id_str=["1", "2", "3"])
    parquet_of(tmp_path / "data" / "b.parquet", "uv", (40, 50), id_str=["4", "5"])
    for what in (tmp_path, tmp_path / "data", f"{tmp_path}/data/*.parquet"):
        listed = list_images(what)
        assert listed.ids == ["1", "2", "3", "4", "5"]
        images = listed.framed(Framing(1.0, 16))
        assert [int(images[n].mean()) for n in range(5)] == [10, 20, 30, 40, 50]
    one = list_images(tmp_path / "data" / "b.parquet")
    assert one.ids == ["4", "5"]
    assert int(one.framed(Framing(1.0, 16))[1].mean()) == 50
    parquet_of(tmp_path / "more" / "b.parquet", "uv", (60, 70), id_str=["4", "5"])
    other = list_images(tmp_path / "more" / "b.parquet")
    assert len({one.digest, other.digest, listed.digest}) == 3
    parquet_of(tmp_path / "c.parquet", "pq", (1, 2))
    assert list_images(tmp_path / "c.parquet").ids == ["p", "q"]
    # Files that are there go before bytes, as in training.
    parquet_of(tmp_path / "d.parquet", "pq", (1, 2), id_str=["1", "2"], path=["8.png", "9.png"])
    assert list_images(tmp_path / "d.parquet").files == []
    Image.new("RGB", (20, 20), (90,) * 3).save(tmp_path / "8.png")
    there = list_images(tmp_path / "d.parquet")
    assert there.files == [str(tmp_path / name) for name in ("8.png", "9.png")]
    assert int(there.framed(Framing(1.0, 16))[0].mean()) == 90
    # What is meant by a folder of both is not to be guessed.
    with pytest.raises(UserError, match=r"found both, such as \S*8\.png and \S*[cd]\.parquet"):
        list_images(tmp_path)
    (tmp_path / "none").mkdir()
    pd.DataFrame({"id_str": ["1"]}).to_parquet(tmp_path / "none" / "t.parquet")
    with pytest.raises(UserError, match="expected a column of encoded images, or of their files"):
        list_images(tmp_path / "none")


def test_files_are_found_as_in_training(tmp_path):
    """By the first column of which a file is there; a subfolder stands before the file's name."""
    (tmp_path / "a").mkdir()
    for name in "xy":
        Image.new("RGB", (20, 20)).save(tmp_path / "a" / f"{name}.png")
    table = pd.DataFrame({"id_str": ["1", "2"], "file_loc": ["/gone/x.png", "/gone/y.png"]})
    for columns in (
        {"path": ["a/x.png", "a/y.png"]},
        {"subfolder": ["a", "a"], "filename": ["x.png", "y.png"]},
    ):
        table.assign(**columns).to_csv(tmp_path / "t.csv", index=False)
        listed = list_images(tmp_path / "t.csv")
        assert listed.files == [str(tmp_path / "a" / "x.png"), str(tmp_path / "a" / "y.png")]
        assert listed.ids == ["1", "2"]
    table.to_csv(tmp_path / "t.csv", index=False)
    assert list_images(tmp_path / "t.csv").files == ["/gone/x.png", "/gone/y.png"]


@pytest.fixture
def many(tmp_path, monkeypatch):
    """A table of 1,000 galaxies that is read in pieces of 64, in three formats."""
    monkeypatch.setattr(listing.names, "CHUNK", 64)
    ids = [str(10**17 + 3 * n) for n in range(1000)]
    table = pd.DataFrame({"id_str": ids, "file": [f"a/{n}.jpg" for n in range(1000)]})
    table.to_csv(tmp_path / "t.csv", index=False)
    table.astype({"id_str": np.int64}).to_parquet(tmp_path / "t.parquet", row_group_size=130)
    return tmp_path, table


def test_a_long_listing_is_the_same_in_pieces(many):
    folder, table = many
    whole = list_images(table.assign(file=f"{folder}/" + table["file"]))
    for name in ("t.csv", "t.parquet"):
        found = list_images(folder / name)
        assert found.ids == table["id_str"].tolist()
        assert found.files == [f"{folder}/{file}" for file in table["file"]]
        assert found.digest == whole.digest
        part = found.part(range(60, 135))
        assert part.ids == table["id_str"].tolist()[60:135]
        assert part.files == found.files[60:135] == list(found.files)[60:135]
        assert found.ids[999] == table["id_str"].iloc[999]
    swapped = table.iloc[[*range(500), 501, 500, *range(502, 1000)]]
    assert list_images(swapped).digest != list_images(table).digest
    moved = pd.DataFrame({"id": ["1", "12"], "file": ["2.jpg", "3.jpg"]})
    other = moved.assign(id=["11", "2"])  # the same letters
    assert list_images(moved).digest != list_images(other).digest


def test_mistakes_in_a_long_listing_are_named_by_their_row(many):
    folder, table = many
    for column, row, value, expected in (
        ("file", 700, "", "row 701 has nothing in file"),
        ("id_str", 900, "", "row 901 has nothing in id_str"),
        ("id_str", 900, table["id_str"][3], r"a/3\.jpg and .*a/900\.jpg are images of one galaxy"),
        ("file", 800, "a\x9b.jpg", "expected a name in UTF-8, without control characters"),
    ):
        wrong = table.copy()
        wrong.loc[row, column] = value
        wrong.to_csv(folder / "wrong.csv", index=False)
        wrong.to_parquet(folder / "wrong.parquet", row_group_size=130)
        for name in ("wrong.csv", "wrong.parquet"):
            with pytest.raises(UserError, match=f"{name}: .*{expected}"):
                list_images(folder / name)


def test_galaxies_with_one_hash_are_not_the_same(many, monkeypatch):
    folder, table = many
    monkeypatch.setattr(listing.names, "_hashes", lambda ids: np.zeros(len(ids), np.uint64))
    assert list_images(folder / "t.csv").ids == table["id_str"].tolist()


def test_parts_of_every_kind_are_those_images(tmp_path, crowd):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 20, 20, 3), np.uint8)
    data = Data(
        ids=tuple("abcde"), images=pixels, votes=crowd[:5].astype(np.float32), splits={},
        left_out=pd.DataFrame(columns=catalogue.LEFT_OUT_COLUMNS), label="",
        tree=trees.load("gz2"), framing=Framing(1.0, 20),
    )  # fmt: skip
    packing.write(tmp_path / "pack", data)
    for n in range(5):
        Image.fromarray(pixels[n]).save(tmp_path / f"{n}.png")
    cells = [{"bytes": (tmp_path / f"{n}.png").read_bytes(), "path": None} for n in range(5)]
    table = pa.table({"id": list("abcde"), "image": cells})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    for what in (pixels, tmp_path / "pack", f"{tmp_path}/*.png", tmp_path / "t.parquet"):
        whole = list_images(what)
        part = whole.part(range(1, 5)).part(range(1, 3))
        assert part.ids == whole.ids[2:4]
        images = part.framed(Framing(1.0, 20))
        assert images.shape == (2, 20, 20, 3)
        for n in range(2):
            np.testing.assert_array_equal(images[n], pixels[n + 2])


def test_shards_of_other_columns_are_named_and_empty_ones_skipped(tmp_path):
    parquet_of(tmp_path / "a.parquet", "xyz", (10, 20, 30), id_str=["1", "2", "3"])
    schema = pyarrow.parquet.read_schema(tmp_path / "a.parquet")
    pyarrow.parquet.write_table(schema.empty_table(), tmp_path / "b.parquet")
    assert list_images(tmp_path).ids == ["1", "2", "3"]
    pd.DataFrame({"id_str": ["4"], "file": ["x.png"]}).to_parquet(tmp_path / "c.parquet")
    with pytest.raises(UserError, match=r"c\.parquet: expected a column of encoded images, as "):
        list_images(tmp_path)
    (tmp_path / "c.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"c\.parquet: not readable as a table"):
        list_images(tmp_path)


def test_text_that_is_no_utf8_is_told_in_one_line(tmp_path):
    buffers = [None, pa.py_buffer(np.int32([0, 5, 10])), pa.py_buffer(b"a.jpgb\xe9jpg")]
    column = pa.Array.from_buffers(pa.string(), 2, buffers)
    pyarrow.parquet.write_table(pa.table({"file": column}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"t\.parquet: not readable as a table: .*UTF8"):
        list_images(tmp_path / "t.parquet")


def test_the_digest_changes_with_where_images_are_inside_parquet_files(tmp_path):
    digests = []
    for ends in (1, 2):
        parquet_of(tmp_path / "a.parquet", "xyz"[:ends], (1, 2, 3)[:ends], id=["1", "2"][:ends])
        parquet_of(
            tmp_path / "b.parquet", "xyz"[ends:], (1, 2, 3)[ends:], id=["2", "3"][ends - 1 :]
        )
        found = list_images(tmp_path)
        assert found.ids == ["1", "2", "3"]
        digests.append(found.digest)
    assert digests[0] != digests[1]


def test_the_columns_of_a_long_table_are_those_of_its_first_rows(many):
    folder, table = many
    (folder / "b").mkdir()
    (folder / "b" / "0.jpg").touch()
    paths = [f"b/{n}.jpg" for n in range(1000)]
    table.rename(columns={"file": "file_loc"}).assign(path=paths).to_csv(folder / "t.csv")
    assert list_images(folder / "t.csv").files == [f"{folder}/{path}" for path in paths]


def test_galaxies_of_a_run_are_listed_as_they_are(tmp_path, crowd):
    """In any order, without being cut out again."""
    data = four_galaxies(crowd)
    pixels = data.images
    listed = list_images(data.listed([3, 0, 2]))
    assert listed.ids == ["a", "d", "b"]
    assert listed.framing(Framing(1.0, 9)) == Framing(0.5, 9)
    for some, places in ((listed, [3, 0, 2]), (listed.part(range(1, 3)), [0, 2])):
        read = some.framed(Framing(0.5, 9))
        np.testing.assert_array_equal([read[n] for n in range(len(places))], pixels[places])
    with pytest.raises(
        UserError, match=r"expected galaxies in .*crop=1\.0.*found them in .*crop=0\.5"
    ):
        listed.framed(Framing(1.0, 9))
    assert len({listed.digest, data.listed([3, 0]).digest}) == 2


def test_columns_of_one_name_are_refused():
    twice = pd.DataFrame([["1", "a.jpg", "c.jpg"]], columns=["GalaxyID", "file", "file"])
    with pytest.raises(UserError, match="expected columns of different names, found file twice"):
        list_images(twice)


def test_ids_that_were_floats_are_refused(tmp_path):
    for ids in (["1000.0", "1001.0"], ["5.877229817413633e+17", "J2"]):
        table = pd.DataFrame({"objid": ids, "file": ["a.jpg", "b.jpg"]})
        table.to_csv(tmp_path / "t.csv", index=False)
        with pytest.raises(UserError, match=r"t\.csv: objid is a column of floating-point numbers"):
            list_images(tmp_path / "t.csv")
