"""Images inside Parquet files: found, read by row group, kept within bounds, and refused."""

import io
import pickle
import threading

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gzjax import tree as trees
from gzjax.data import catalogue, dataset, parquet
from gzjax.data.columns import CHALLENGE_TABLE
from gzjax.data.dataset import Split
from gzjax.data.images import (
    UNREACHABLE,
    Framing,
    Images,
    Unusable,
    check_image,
    read_image,
    some_of,
)
from gzjax.data.parquet import Cells, ParquetImages
from gzjax.errors import UserError

DECALS = trees.load("decals-dr5")
FRAMING = Framing(0.8, 16)
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def encoded(number, size=20, kind="PNG"):
    stream = io.BytesIO()
    Image.new("RGB", (size, size), (number % 256,) * 3).save(stream, kind)
    return stream.getvalue()


def votes(galaxies, first=0):
    """Counts of a crowd of which everybody sees a smooth and round galaxy."""
    table = pd.DataFrame(0, index=range(galaxies), columns=list(DECALS.columns))
    table["smooth-or-featured-dr5_smooth"] = 40 + np.arange(first, first + galaxies)
    table["how-rounded-dr5_round"] = 40
    return {name: pa.array(table[name]) for name in table}


def write(path, cells, kind=STRUCT, column="image", rows=4, first=0, **more):
    """A Parquet table of votes and images, with few rows a row group."""
    ids = [f"g{first + row}" for row in range(len(cells))]
    columns = {column: pa.array(cells, kind), **votes(len(cells), first)} | more
    table = pa.table(({"id_str": ids} | columns) if "id_str" not in more else columns)
    pq.write_table(table, path, row_group_size=rows)
    return str(path)


def cell(number, **options):
    return {"bytes": encoded(number, **options), "path": f"{number}.png"}


def of_files(*files, galaxies=10, column="image"):
    """Cells of some files, one below the other."""
    file, row = np.divmod(np.arange(galaxies * len(files)), galaxies)
    return Cells(column, files, file, row)


def shades(images):
    return [int(images[position][3, 4, 1]) for position in range(len(images))]


@pytest.mark.parametrize("kind", [STRUCT, pa.binary(), pa.large_binary()])
def test_images_are_read_from_wherever_they_are(tmp_path, kind):
    cells = [cell(n) if kind == STRUCT else encoded(n) for n in range(20)]
    first = write(tmp_path / "a.parquet", cells[:10], kind, "picture")
    second = write(tmp_path / "b.parquet", cells[10:], kind, "picture", rows=3)
    found = ParquetImages(of_files(first, second, column="picture"), FRAMING)
    assert isinstance(found, Images)
    assert found.shape == (20, 16, 16, 3)
    assert len(found) == 20
    assert shades(found) == list(range(20))
    order = np.random.default_rng(0).permutation(20)
    taken = ParquetImages(found.cells.take(order), FRAMING)
    assert shades(taken) == order.tolist()
    assert taken.place(3) == f"{(first, second)[order[3] // 10]}, row {order[3] % 10 + 1}"
    assert shades(pickle.loads(pickle.dumps(taken))) == order.tolist()
    (tmp_path / "a.png").write_bytes(encoded(7))
    np.testing.assert_array_equal(found[7], read_image(tmp_path / "a.png", FRAMING))


def test_paths_in_place_of_bytes_are_beside_their_own_file(tmp_path):
    files = []
    for name in "ab":
        (tmp_path / name).mkdir()
        cells = [{"bytes": None, "path": "x.png"}]
        files.append(write(tmp_path / name / "t.parquet", cells))
    found = ParquetImages(of_files(*files, galaxies=1), FRAMING)
    expected = [str(tmp_path / name / "x.png") for name in "ab"]
    assert [found.encoded(n) for n in range(2)] == expected


def test_row_groups_are_kept_within_bounds(tmp_path, monkeypatch):
    file = write(tmp_path / "a.parquet", [cell(n, size=40 + n) for n in range(12)])
    read, groups = pq.ParquetFile.read_row_group, []

    def counted(self, group, **options):
        assert options["columns"] == ["image"]  # nothing else is read
        groups.append(group)
        return read(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    whole = ParquetImages(of_files(file, galaxies=12), FRAMING)
    for row in (0, 11, 3, 8, 5, 0, 4):
        whole[row]
    assert groups == [0, 2, 1]
    size = max(each.nbytes for each in whole._groups.values())
    groups.clear()
    bounded = ParquetImages(of_files(file, galaxies=12), FRAMING, 2 * size + 10)
    for row in (0, 11, 1, 5, 2, 9):  # the one that was used longest ago goes first
        bounded[row]
    assert groups == [0, 2, 1, 2]
    assert bounded._bytes() <= 2 * size + 10
    groups.clear()
    single = ParquetImages(of_files(file, galaxies=12), FRAMING, 1)
    for row in (0, 1, 11, 10, 0):
        single[row]
    assert groups == [0, 2, 0]
    assert len(single._groups) == 1
    state = pickle.dumps(whole)
    assert len(state) < 2000 + 12 * 16
    assert pickle.loads(state).most_bytes == whole.most_bytes == parquet.MOST_BYTES == 2**28


def test_threads_share_the_row_groups(tmp_path):
    file = write(tmp_path / "a.parquet", [cell(n) for n in range(40)])
    found = ParquetImages(of_files(file, galaxies=40), FRAMING, 1)
    wrong = []

    def look(seed):
        for row in np.random.default_rng(seed).integers(0, 40, 60):
            if found[row][0, 0, 0] != row:
                wrong.append(row)

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_cannot_be_used_says_why(tmp_path):
    (tmp_path / "beside.png").write_bytes(encoded(77))
    cells = [
        cell(0),
        None,
        {"bytes": None, "path": None},
        {"bytes": None, "path": "beside.png"},
        {"bytes": None, "path": "gone.png"},
        {"bytes": b"<html>", "path": "a.png"},
        {"bytes": b"", "path": "a.png"},
        cell(1, size=8),
        {"bytes": encoded(2, kind="JPEG", size=200)[:-30], "path": "a.jpg"},
    ]
    file = write(tmp_path / "a.parquet", cells)
    found = ParquetImages(of_files(file, galaxies=9), FRAMING)
    assert found[3][0, 0, 0] == 77
    for row, reason in (
        (1, "row without image"),
        (2, "row without image"),
        (4, "there is no such file"),
        (5, "not readable as an image: expected one of JPEG"),
        (6, "not readable as an image: expected one of JPEG"),
        (7, "too small: 8 x 8 pixels"),
        (8, "truncated: no end-of-image marker"),
    ):
        with pytest.raises(Unusable) as raised:
            found[row]
        assert str(raised.value).startswith(reason)
        if row > 4:
            assert check_image(cells[row]["bytes"]).startswith(reason)
    assert check_image(cells[0]["bytes"]) == check_image(cells[0]["bytes"], decode=True) == ""


def test_a_damaged_file_is_a_fault_of_its_images(tmp_path):
    file = write(tmp_path / "a.parquet", [cell(n) for n in range(8)])
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[4:400] = b"\xff" * 396
    (tmp_path / "a.parquet").write_bytes(content)
    found = ParquetImages(of_files(file, galaxies=8), FRAMING)
    with pytest.raises(Unusable, match="not readable as an image: "):
        found[1]
    assert found[7][0, 0, 0] == 7
    with pytest.raises(Unusable, match=f"{UNREACHABLE}: "):
        ParquetImages(of_files(str(tmp_path / "gone.parquet")), FRAMING)[0]


def test_the_column_of_images_is_known_by_its_type():
    binary, text = pa.binary(), pa.string()
    other = pa.struct([("bytes", text), ("path", text)])
    for columns, expected in (
        ([("image", text), ("ra", pa.float64())], None),
        ([("image", other)], None),
        ([("blob", binary), ("The_Image", binary)], "The_Image"),
        ([("geometry", binary), ("md5", binary)], None),
        ([("png", pa.binary(8))], "png"),
        ([("cutout", pa.dictionary(pa.int8(), binary))], "cutout"),
        ([("image", pa.struct([("bytes", pa.null()), ("path", text)]))], "image"),
        ([("image", pa.struct([("bytes", pa.null())]))], None),
        ([("image", binary), ("photo", STRUCT)], "photo"),
        ([("photo", pa.struct([("bytes", pa.large_binary())]))], "photo"),
    ):
        assert parquet.image_column(pa.schema(columns)) == expected


def read(root, **changes):
    options = {"tree": DECALS, "table": CHALLENGE_TABLE, "images": "images"} | changes
    return catalogue.read_catalogue(root, **options)


def shards(root, galaxies=60):
    """A folder as Hugging Face downloads it: shards of a dataset, some way down."""
    (root / "data" / "train").mkdir(parents=True)
    (root / ".cache").mkdir()
    (root / ".cache" / "x.parquet").write_text("no table")
    cells = [cell(n) for n in range(3 * galaxies)]
    for number, name in enumerate(("data/a.parquet", "data/b.parquet", "data/train/a.parquet")):
        part = cells[number * galaxies : (number + 1) * galaxies]
        write(root / name, part, first=number * galaxies, rows=13)
    return root


def test_a_folder_of_shards_is_read_as_it_is(tmp_path):
    shards(tmp_path)
    galaxies, left_out, embedded, about = read(tmp_path, decode=True)
    assert list(galaxies.index) == [f"g{number}" for number in range(180)]
    assert galaxies["smooth-or-featured-dr5_smooth"].tolist() == list(range(40, 220))
    assert galaxies["file"].iloc[61] == f"{tmp_path}/data/b.parquet, row 2"
    assert left_out.empty
    assert shades(ParquetImages(embedded, FRAMING)) == list(range(180))
    assert about.startswith("table a.parquet and 2 more: counts of decals-dr5 (survey names), 10")
    few = read(tmp_path, table="data/*.parquet")
    assert len(few.galaxies) == 120
    assert len(read(tmp_path, table="data/b.parquet").galaxies) == 60
    assert len(read(tmp_path, table=f"{tmp_path}/**/b.parquet").galaxies) == 60
    assert len(read(tmp_path / "data", table=f"{tmp_path}/data/b.parquet").galaxies) == 60
    with pytest.raises(UserError, match=r"c\*\.parquet: no such file"):
        read(tmp_path, table="data/c*.parquet")


def test_a_run_has_the_images_of_its_galaxies(tmp_path):
    shards(tmp_path)
    options = {"tree": DECALS, "table": "data/*.parquet", "images": "images", "framing": FRAMING}
    data = dataset.from_folder(tmp_path, split=Split(), **options)
    assert isinstance(data.images, ParquetImages)
    assert data.images.framing == FRAMING
    assert data.about.startswith("table a.parquet and 1 more: counts")
    rows = data.splits["validation"]
    batch = data.source("validation").batch(np.arange(len(rows)))
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], rows)
    with pytest.raises(UserError, match=r"one whole question of decals-dr5, such as .*_weight"):
        dataset.from_folder(tmp_path, split=Split(), kind="weights", **options)


def test_images_that_cannot_be_used_are_left_out(tmp_path):
    cells = [cell(n) for n in range(250)]
    cells[3], cells[9] = None, {"bytes": encoded(9)[:60], "path": None}
    table = votes(250)
    for name in table:
        table[name] = pa.array([None if row == 5 else n for row, n in enumerate(table[name])])
    file = write(tmp_path / "a.parquet", cells, rows=60, **table)
    found = read(tmp_path)
    assert found.left_out.to_numpy().tolist() == [
        ["g5", f"{file}, row 6", "row without votes"],
        ["g3", f"{file}, row 4", "row without image"],
    ]
    images = ParquetImages(found.embedded, FRAMING)
    expected = [number for number in range(250) if number not in (3, 5)]
    assert list(found.galaxies.index) == [f"g{number}" for number in expected]
    places = [images.place(row) for row in range(len(images))]
    assert places == found.galaxies["file"].tolist()
    good = [position for position, number in enumerate(expected) if number != 9]
    assert [int(images[position][0, 0, 0]) for position in good] == [expected[g] for g in good]
    assert read(tmp_path, decode=True).left_out["GalaxyID"].tolist() == ["g5", "g3", "g9"]
    cells[20] = cells[21] = {"bytes": b"x", "path": None}
    write(tmp_path / "a.parquet", cells)
    with pytest.raises(UserError, match=r"3 of 250 .*: 1 row without image, 2 not readable as an"):
        read(tmp_path)


def test_images_name_galaxies_if_nothing_else_does(tmp_path):
    table = pa.table({"image": pa.array([cell(n) for n in range(9)], STRUCT), **votes(9)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    assert list(read(tmp_path).galaxies.index) == [str(number) for number in range(9)]
    nameless = table.set_column(0, "image", pa.array([encoded(1)] * 9))
    pq.write_table(nameless, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="expected a column of galaxies, named one of GalaxyID"):
        read(tmp_path)


def test_files_that_are_there_go_before_bytes_and_bytes_before_a_folder(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(encoded(100 + number))
        (tmp_path / "images" / f"g{number}.png").write_bytes(encoded(200 + number))
    cells, files = [cell(n) for n in range(5)], [f"{number}.png" for number in range(5)]
    write(tmp_path / "a.parquet", cells, file=files)
    found = read(tmp_path)
    assert found.embedded is None
    assert found.galaxies["file"].tolist() == [str(tmp_path / name) for name in files]
    write(tmp_path / "a.parquet", cells, file=[f"{number}.gone" for number in range(5)])
    assert read(tmp_path).embedded is not None
    pq.write_table(pq.read_table(tmp_path / "a.parquet").drop(["image"]), tmp_path / "a.parquet")
    found = read(tmp_path)
    assert found.embedded is None
    assert found.galaxies["file"].iloc[2] == str(tmp_path / "images" / "g2.png")


def test_some_of_them_are_sent_without_the_others(tmp_path):
    images = ParquetImages(
        of_files(write(tmp_path / "a.parquet", [cell(n) for n in range(10)])), FRAMING
    )
    some = pickle.loads(pickle.dumps(some_of(images, np.array([2, 3, 7]))))
    assert shades(some) == [2, 3, 7]
    assert len(some.cells.row) == 3
