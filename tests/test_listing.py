import pandas as pd
import pytest

from gzjax.data import catalog, listing, pack
from gzjax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Three images, one of them deeper, and two files that are none."""
    (tmp_path / "more").mkdir()
    for name in ("2.jpg", "more/10.PNG", "3.jpeg", "notes.txt", ".hidden.jpg"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def test_a_folder_is_searched_with_all_in_it(folder):
    found = listing.list_images(str(folder))
    assert found.ids == ["2", "3", "10"]
    assert found.files[2] == str(folder / "more" / "10.PNG")


def test_patterns_and_single_files(folder):
    assert listing.list_images(f"{folder}/*.jp*g").ids == ["2", "3"]
    assert listing.list_images(f"{folder}/**/*").ids == ["2", "3", "10"]
    assert listing.list_images(str(folder / "3.jpeg")).ids == ["3"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("column", listing.FILE_COLUMNS)
def test_tables_name_files_beside_them(folder, suffix, column):
    path = folder / f"table.{suffix}"
    table = pd.DataFrame({column: ["2.jpg", str(folder / "3.jpeg"), "gone.jpg"]})
    save = table.to_csv if suffix == "csv" else table.to_parquet
    save(path, index=False)
    found = listing.list_images(str(path))
    assert found.ids == ["2", "3", "gone"]
    assert found.files == [str(folder / name) for name in ("2.jpg", "3.jpeg", "gone.jpg")]
    table.assign(GalaxyID=[7, 8, 9]).to_csv(folder / "ids.csv", index=False)
    assert listing.list_images(str(folder / "ids.csv")).ids == ["7", "8", "9"]


def test_the_digest_changes_with_what_is_listed(folder):
    one = listing.list_images(str(folder)).digest
    assert one == listing.list_images(str(folder)).digest
    (folder / "4.jpg").write_bytes(b"")
    assert one != listing.list_images(str(folder)).digest


def test_what_cannot_be_listed_is_told(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    pd.DataFrame({"ra": [1.0]}).to_csv(folder / "sky.csv")
    pd.DataFrame({"file": ["2.jpg", None]}).to_csv(folder / "holes.csv")
    files = {"file": ["2.jpg", "3.jpeg"]}
    for suffix, name in (("csv", "GalaxyID"), ("parquet", "id_str")):
        table = pd.DataFrame({**files, name: ["7", None]})
        (table.to_csv if suffix == "csv" else table.to_parquet)(folder / f"nobody.{suffix}")
    pd.DataFrame({**files, "objid": [1.5e17, 2.5e17]}).to_parquet(folder / "floats.parquet")
    pd.DataFrame({**files, "id": ["1", "2\r3"]}).to_parquet(folder / "lines.parquet")
    (folder / "half").mkdir()
    (folder / "half" / pack.UNFINISHED).write_text("{}")
    (folder / "more" / "2.jpg").write_bytes(b"")
    for what, expected in (
        (folder, "are images of one galaxy, 2"),
        (folder / "empty", "no image in this folder"),
        (folder / "nowhere", "expected a folder, a pattern that fits images, or a table"),
        (folder / "notes.txt", "expected an image"),
        (folder / "nowhere.csv", "no such table"),
        (folder / "sky.csv", "expected a column of files.*found Unnamed: 0, ra"),
        (folder / "holes.csv", "row 2 has nothing in file"),
        (folder / "nobody.csv", "row 2 has nothing in GalaxyID"),
        (folder / "nobody.parquet", "row 2 has nothing in id_str"),
        (folder / "floats.parquet", "objid is a column of floating-point numbers"),
        (folder / "lines.parquet", "expected a name in UTF-8, without control characters"),
        (folder / "half", "this pack is half-written"),
    ):
        with pytest.raises(UserError, match=expected):
            listing.list_images(str(what))


def test_galaxies_may_be_called_like_nothing(folder):
    (folder / "t.csv").write_text("file,GalaxyID\n2.jpg,NA\n3.jpeg,007\n")
    assert listing.list_images(str(folder / "t.csv")).ids == ["NA", "007"]


def test_a_manifest_alone_makes_no_pack(folder):
    (folder / pack.MANIFEST).write_text("{}")
    assert listing.list_images(str(folder)).ids == ["2", "3", "10"]


def test_names_that_are_no_utf8_are_told(tmp_path):
    name = b"gal\xe9.jpg".decode(errors="surrogateescape")
    try:
        (tmp_path / name).write_bytes(b"")
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    with pytest.raises(UserError, match=r"gal\\udce9.*: expected a name in UTF-8"):
        listing.list_images(str(tmp_path))
    with pytest.raises(UserError, match="expected a name in UTF-8"):
        catalog.find_images(tmp_path)
