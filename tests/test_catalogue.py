"""Catalogues: tables, images and splits, and what is said of their faults."""

import functools
import io

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from PIL import Image

from gzjax import tree as trees
from gzjax.data import catalogue, names
from gzjax.errors import UserError
from gzjax.run import predict
from gzjax.run.prediction_columns import Wanted
from gzjax.tree import Tree

GZ2 = trees.load("gz2")
COLUMNS = list(GZ2.columns)
TABLE, IMAGES = "training_solutions_rev1.csv", "images_training_rev1"


def small_tree(asked_after=("shape_disk", "shape_edge"), name="small"):
    """Two questions; the second is asked after two of the first one's answers."""
    return Tree.from_dict(
        {
            "name": name,
            "questions": [
                {"name": "shape", "answers": ["smooth", "disk", "edge"]},
                {"name": "bar", "answers": ["yes", "no"], "asked_after": list(asked_after)},
            ],
        }
    )


def read(root, **changes):
    options = {"tree": GZ2, "table": TABLE, "images": IMAGES} | changes
    return catalogue.read_catalogue(root, **options)


@functools.cache
def image_bytes(kind, size):
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def draw_image(path, size=20):
    path.write_bytes(image_bytes({".jpg": "JPEG", ".png": "PNG"}[path.suffix], size))


def write_table(path, fractions, first=100):
    table = pd.DataFrame(fractions, columns=COLUMNS)
    table.insert(0, "GalaxyID", [str(first + n) for n in range(len(table))])
    table.to_csv(path, index=False)
    return table


@pytest.fixture
def challenge(tmp_path, crowd):
    """A folder in the challenge's layout: 64 galaxies with IDs from 100."""
    (tmp_path / IMAGES).mkdir()
    for galaxy in write_table(tmp_path / TABLE, crowd)["GalaxyID"]:
        draw_image(tmp_path / IMAGES / f"{galaxy}.jpg")
    return tmp_path


def rewrite(root, change):
    path = root / TABLE
    table = pd.read_csv(path, dtype={"GalaxyID": str})
    change(table).to_csv(path, index=False)


def test_a_good_folder_is_read_whole(challenge, crowd):
    galaxies, left_out, embedded, about = read(challenge, decode=True)
    assert len(galaxies) == 64
    assert left_out.empty
    assert embedded is None
    assert about == (
        f"table {TABLE}: cumulative fractions of gz2 (challenge names), 11 of 11 questions; taken "
        "as 40 volunteers a galaxy"
    )
    assert list(left_out.columns) == ["GalaxyID", "file", "reason"]
    assert list(galaxies.index[:2]) == ["100", "101"]
    np.testing.assert_array_equal(galaxies[COLUMNS], (40 * crowd).astype(np.float32))
    assert (galaxies[COLUMNS].dtypes == np.float32).all()
    for galaxy, file in galaxies["file"].items():
        assert file == str(challenge / IMAGES / f"{galaxy}.jpg")


def test_columns_in_another_order_or_beside_others_are_found(challenge, crowd):
    rewrite(challenge, lambda table: table[table.columns[::-1]].assign(ra=1.5, note="x"))
    galaxies = read(challenge).galaxies
    np.testing.assert_allclose(galaxies[COLUMNS], 40 * crowd, atol=1e-5)
    assert list(galaxies.columns) == [*COLUMNS, "file"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t[["GalaxyID", "Class3.1"]],
            "one whole question of gz2, such as Class1.1 or",
        ),
        (lambda t: t.rename(columns={"GalaxyID": "name"}), "GalaxyID, .*; found name, Class1.1"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "100 appears twice .again in line 66.; 1 in all"),
        (lambda t: t.assign(**{"Class1.1": 1.5}), r"line 2, Class1.1: .* found 1.5; 64 in all"),
        (lambda t: t.assign(**{"Class2.2": float("inf")}), "line 2, Class2.2: .* found inf"),
        (lambda t: t.assign(**{"Class2.2": "high"}), "Class2.2: .* found high"),
        (lambda t: t.assign(**{"Class2.2": -0.1}), "Class2.2: .* found -0.1"),
        (lambda t: t.assign(**{"Class7.1": 0.9}), "64 of 64 rows break the .*tree gz2.*withdrawn"),
        (lambda t: t.iloc[:0], "at least one galaxy, found none"),
        (
            lambda t: t.assign(GalaxyID=[None] + list(t.GalaxyID[1:])),
            "line 2 has nothing in Gal",
        ),
    ],
)
def test_faults_in_the_table_are_named(challenge, change, message):
    rewrite(challenge, change)
    with pytest.raises(UserError, match=message) as raised:
        read(challenge)
    assert str(raised.value).startswith(f"{challenge / TABLE}: ")
    assert "\n" not in str(raised.value)
    assert "--" not in str(raised.value)


def test_a_line_is_named_as_the_file_counts_it(challenge):
    lines = (challenge / TABLE).read_text().splitlines()
    lines[5] = lines[5].replace(lines[5].split(",")[3], "7", 1)
    (challenge / TABLE).write_text("\n".join([*lines[:3], "", "", *lines[3:]]) + "\n\n")
    with pytest.raises(UserError, match=r"line 8, Class1.3: .* found 7.* 1 in all"):
        read(challenge)


def test_commas_at_the_end_of_lines_shift_nothing(challenge, crowd):
    head, *rows = (challenge / TABLE).read_text().splitlines()
    (challenge / TABLE).write_text("\n".join([head, *(row + "," for row in rows)]))
    galaxies = read(challenge).galaxies
    np.testing.assert_allclose(galaxies[COLUMNS], 40 * crowd, atol=1e-5)


@pytest.mark.parametrize("pattern", ["*.parquet", TABLE])
def test_predictions_beside_votes_are_no_votes(challenge, pattern):
    table = pd.read_csv(challenge / TABLE)
    (challenge / TABLE).unlink()
    table[:60].to_parquet(challenge / "votes.parquet")
    assert len(read(challenge, table=pattern).galaxies) == 60
    others = table[60:].assign(GalaxyID=lambda table: table["GalaxyID"].astype(str))
    asked = others.assign(**{"bar_proportion-asked": 0.5})
    asked.to_parquet(challenge / "predicted.parquet")  # as what was read and written by pandas
    with pytest.raises(UserError, match=r"predicted\.parquet: what a model predicts, found beside"):
        read(challenge, table=pattern)
    marked = predict.published(
        others.assign(fault=""), trees.load("gz2"), Wanted("challenge"), readable=False
    )
    pyarrow.parquet.write_table(marked, challenge / "predicted.parquet")
    with pytest.raises(UserError, match=r"predicted\.parquet: what a model predicts, found beside"):
        read(challenge, table=pattern)
    # Whoever names a table means it.
    assert len(read(challenge, table="predicted.parquet").galaxies) == 4


def test_urls_are_not_trained_on(challenge):
    (challenge / IMAGES).rename(challenge / "elsewhere")
    rewrite(challenge, lambda table: table.assign(file="https://example.org/1.jpg"))
    with pytest.raises(UserError, match=r"a local disk to train on, found https://example\.org/1"):
        read(challenge)


def test_a_parquet_table_is_read_as_a_csv_table_is(challenge, crowd):
    table = pd.read_csv(challenge / TABLE)
    assert table["GalaxyID"].dtype == np.int64
    table.assign(ra=1.5).to_parquet(challenge / "votes.parquet")
    galaxies, left_out, *_ = read(challenge, table="votes.parquet")
    assert list(galaxies.index) == [str(100 + n) for n in range(64)]
    np.testing.assert_array_equal(galaxies[COLUMNS], (40 * crowd).astype(np.float32))
    assert left_out.empty


def test_missing_places_are_named(tmp_path, challenge):
    with pytest.raises(UserError, match=r"nowhere: no such folder; expected the table and"):
        read(tmp_path / "nowhere")
    (challenge / IMAGES).rename(challenge / "elsewhere")
    with pytest.raises(UserError, match=f"{IMAGES}: no such folder"):
        read(challenge)
    assert len(read(challenge, images="elsewhere").galaxies) == 64
    (challenge / TABLE).rename(challenge / "other.csv")
    with pytest.raises(UserError, match=f"{TABLE}: no such file"):
        read(challenge, images="elsewhere")
    assert len(read(challenge, images="elsewhere", table="other.csv").galaxies) == 64


def many(root, crowd, galaxies=200):
    """Grows the folder so that one galaxy is less than one per cent."""
    table = write_table(root / TABLE, np.concatenate([crowd] * 4)[:galaxies])
    for galaxy in table["GalaxyID"]:
        draw_image(root / IMAGES / f"{galaxy}.jpg")


@pytest.mark.parametrize(
    ("spoil", "reason", "decode"),
    [
        (lambda file: file.unlink(), "row without image", False),
        (lambda file: file.write_bytes(file.read_bytes()[:-40]), "truncated: no end", False),
        (lambda file: file.write_text("<html>404</html>"), "not readable as an image: ", False),
        (lambda file: draw_image(file, 8), "too small: 8 x 8", False),
        (lambda file: (draw_image(file.with_name("a.png")), cut(file)), "not readable", True),
    ],
)
def test_a_lost_image_is_skipped_and_listed(challenge, crowd, spoil, reason, decode):
    many(challenge, crowd)
    file = challenge / IMAGES / "103.jpg"
    spoil(file)
    galaxies, left_out, *_ = read(challenge, decode=decode)
    assert list(galaxies.index) == [str(100 + n) for n in range(200) if n != 3]
    np.testing.assert_array_equal(galaxies[COLUMNS].iloc[3], (40 * crowd[4]).astype(np.float32))
    assert left_out["GalaxyID"].iloc[0] == "103"
    assert left_out["file"].iloc[0] == ("" if "without" in reason else str(file))
    assert left_out["reason"].iloc[0].startswith(reason)
    if decode:
        assert len(read(challenge).galaxies) == 200  # the header alone is good


def cut(file):
    """Half of a PNG, under the name of the JPEG."""
    content = file.with_name("a.png").read_bytes()
    file.with_name("a.png").unlink()
    file.write_bytes(content[: len(content) // 2])


def test_a_table_may_name_the_files_of_the_images(challenge, crowd):
    many(challenge, crowd)
    (challenge / IMAGES).rename(challenge / "elsewhere")
    rewrite(
        challenge, lambda t: t.assign(file=[f"elsewhere/{galaxy}.jpg" for galaxy in t.GalaxyID])
    )
    (challenge / "elsewhere" / "105.jpg").unlink()
    draw_image(challenge / "elsewhere" / "x.jpg")  # nobody looks for others
    found = read(challenge)
    assert found.galaxies["file"].iloc[1] == str(challenge / "elsewhere" / "101.jpg")
    assert found.left_out.to_numpy().tolist() == [
        ["105", str(challenge / "elsewhere" / "105.jpg"), "row without image"]
    ]
    rewrite(challenge, lambda t: t.assign(file=t.file.where(t.GalaxyID != "107")))
    assert read(challenge).left_out["GalaxyID"].tolist() == ["105", "107"]
    rewrite(challenge, lambda t: t.assign(file="gone.jpg"))
    with pytest.raises(
        UserError, match=f"column of files names, or .*{IMAGES}; found neither, such as .*gone.jpg"
    ):
        read(challenge)
    assert len(read(challenge, images="elsewhere").galaxies) == 199


def test_rows_that_the_table_loses_are_listed_and_their_images_are_not_extra(challenge, crowd):
    many(challenge, crowd)
    rows = np.concatenate([crowd] * 4)[:200]
    rows[7, :2] = 0.5, 0.9
    rows[9] = 0
    write_table(challenge / TABLE, rows)
    found = read(challenge)
    assert len(found.galaxies) == 198
    assert found.left_out["GalaxyID"].tolist() == ["107", "109"]
    reasons = found.left_out["reason"].tolist()
    assert reasons[0].startswith("breaks the gate of smooth-or-featured: its answers sum to 2.1")
    assert reasons[1] == "row without votes"


def test_nominal_votes_and_the_kind_are_asked_for(challenge, crowd):
    galaxies = read(challenge, votes_per_galaxy=10.0, kind="cumulative").galaxies
    np.testing.assert_allclose(galaxies[COLUMNS], 10 * crowd, atol=1e-5)
    with pytest.raises(UserError, match="expected the columns of at least one whole question"):
        read(challenge, kind="weights")


def test_an_image_without_row_is_listed_and_costs_nothing(challenge):
    for name in ("x1", "x2", "x3"):
        draw_image(challenge / IMAGES / f"{name}.png")
    galaxies, left_out, *_ = read(challenge)
    assert len(galaxies) == 64
    assert left_out["reason"].tolist() == ["image without row"] * 3
    assert left_out["file"].iloc[1] == str(challenge / IMAGES / "x2.png")


def test_losing_more_than_a_hundredth_stops_the_run(challenge):
    (challenge / IMAGES / "103.jpg").unlink()
    (challenge / IMAGES / "102.jpg").write_text("no image")
    with pytest.raises(UserError) as raised:
        read(challenge)
    assert str(raised.value) == (
        f"{challenge}: 2 of 64 galaxies would be skipped, more than 1%: 1 row without image, 1 not "
        "readable as an image; the first is 103 (row without image)"
    )


@pytest.mark.parametrize(("skipped", "galaxies", "enough"), [(1, 100, True), (2, 199, False)])
def test_a_hundredth_may_be_lost(skipped, galaxies, enough):
    faults = {str(number): "too small: 1 x 1" for number in range(skipped)}
    if enough:
        catalogue.check_left_out(faults, galaxies, "here")
    else:
        with pytest.raises(UserError, match=r"here: 2 of 199 .*: 2 too small; the first is 0 "):
            catalogue.check_left_out(faults, galaxies, "here")


def test_two_images_of_one_galaxy_are_refused(challenge):
    draw_image(challenge / IMAGES / "100.png")
    with pytest.raises(UserError, match=r"100\.jpg and .*100\.png are images of one galaxy, 100$"):
        read(challenge)


def test_folders_of_images_within_are_searched_also_by_a_link(challenge):
    (challenge / "elsewhere").mkdir()
    (challenge / IMAGES / "100.jpg").rename(challenge / "elsewhere" / "100.jpg")
    (challenge / IMAGES / "more").symlink_to(challenge / "elsewhere")
    (challenge / IMAGES / "loop").symlink_to(challenge / IMAGES)
    galaxies, left_out, *_ = read(challenge)
    assert len(galaxies) == 64
    assert left_out.empty
    assert galaxies["file"].iloc[0] == str(challenge / IMAGES / "more" / "100.jpg")


def student_layout(root, crowd, ids=lambda answer: [10 * answer, 10 * answer + 1]):
    for answer in (1, 2, 3):
        (root / f"Class1.{answer}").mkdir()
        table = pd.DataFrame(crowd[answer : answer + 2], columns=COLUMNS)
        table.insert(0, "GalaxyID", ids(answer))
        table.to_csv(root / f"Class1.{answer}.csv", index=False)
        for galaxy in table["GalaxyID"]:
            draw_image(root / f"Class1.{answer}" / f"{galaxy}.jpg")


def test_the_student_projects_layout_is_read_too(tmp_path, crowd):
    student_layout(tmp_path, crowd)
    (tmp_path / "old").mkdir()
    draw_image(tmp_path / "old" / "10.jpg")  # of no table
    galaxies, left_out, *_ = read(tmp_path)
    assert list(galaxies.index) == ["10", "11", "20", "21", "30", "31"]
    np.testing.assert_allclose(galaxies[COLUMNS], 40 * crowd[[1, 2, 2, 3, 3, 4]], atol=1e-5)
    assert galaxies["file"].iloc[2] == str(tmp_path / "Class1.2" / "20.jpg")
    assert left_out.empty
    with pytest.raises(UserError, match=r"training_solution\.csv: no such file"):
        read(tmp_path, table="training_solution.csv")  # misspelt


def test_the_challenges_table_goes_before_the_student_projects(challenge, crowd):
    student_layout(challenge, crowd)
    assert len(read(challenge).galaxies) == 64


def test_a_galaxy_in_two_tables_is_refused(tmp_path, crowd):
    student_layout(tmp_path, crowd, lambda answer: [answer, 7])
    with pytest.raises(UserError, match="GalaxyID 7 is in more than one table"):
        read(tmp_path)


@given(
    ids=st.lists(st.integers(1, 10**6), min_size=1, max_size=200, unique=True),
    seed=st.integers(0, 9),
    parts=st.tuples(st.floats(0.01, 0.4), st.floats(0.01, 0.4)),
)
@settings(max_examples=30, deadline=None)
def test_splits_cover_everything_once_and_stay_when_galaxies_are_added(ids, seed, parts):
    names = [str(galaxy) for galaxy in ids]
    splits = catalogue.split(names, seed, *parts)
    assert list(splits) == ["train", "validation", "test"]
    assert sorted(np.concatenate(list(splits.values()))) == list(range(len(ids)))
    more = catalogue.split(["before", *names, "later"], seed, *parts)
    for name, rows in splits.items():
        assert set(rows) == {row - 1 for row in more[name] if 0 < row <= len(ids)}


def test_splits_are_as_large_as_asked_and_depend_on_the_seed():
    names = [str(galaxy) for galaxy in range(20_000)]
    small, large = (catalogue.split(names, 3, 0.05, part) for part in (0.02, 0.2))
    assert set(small["test"]) < set(large["test"])
    for found, part in ((small, 0.02), (large, 0.2)):
        assert len(found["test"]) / 20_000 == pytest.approx(part, abs=0.004)
        assert len(found["validation"]) / 20_000 == pytest.approx(0.05, abs=0.004)
        assert sorted(np.concatenate(list(found.values()))) == list(range(20_000))
    assert set(small["test"]) != set(catalogue.split(names, 1, 0.05, 0.02)["test"])


def test_the_splits_of_a_seed_stay_what_they_were():
    """As the first runs had them: other galaxies held out would make scores incomparable."""
    names = [str(galaxy) for galaxy in range(40)]
    found = {name: rows.tolist() for name, rows in catalogue.split(names, 0, 0.1, 0.1).items()}
    assert found["validation"] == [0, 2, 6, 28]
    assert found["test"] == [1, 15]


def test_the_fingerprint_changes_with_every_galaxy_vote_and_the_tree():
    fractions = np.arange(10, dtype=np.float32).reshape(2, 5) / 10
    ids, tree = ("a", "b"), small_tree()
    one = catalogue.fingerprint(ids, fractions, tree)
    assert one == catalogue.fingerprint(list(ids), fractions.copy(), small_tree())
    nudged = fractions.copy()
    nudged[1, 4] = np.nextafter(nudged[1, 4], np.float32(1))
    others = {
        catalogue.fingerprint(("a", "c"), fractions, tree),
        catalogue.fingerprint(("b", "a"), fractions, tree),
        catalogue.fingerprint(("a\nb",), fractions, tree),
        catalogue.fingerprint(ids, nudged, tree),
        catalogue.fingerprint(ids, fractions[::-1], tree),
        catalogue.fingerprint(ids, fractions, small_tree(["shape_disk"])),
        catalogue.fingerprint(ids, fractions, small_tree(name="other")),
    }
    assert len(others | {one}) == 8
    unknown = fractions.copy()
    unknown[1, 3:] = np.nan
    other_bits = unknown.copy()
    other_bits.view(np.uint32)[1, 3] ^= 0x80000001  # another NaN
    assert np.isnan(other_bits[1, 3])
    found = {catalogue.fingerprint(ids, each, tree) for each in (unknown, other_bits)}
    assert len(found) == 1
    assert found != {one}


@pytest.mark.parametrize("name", ["7", "é", "NGC 224", "a:b"])
def test_names_that_tables_can_hold(name):
    assert names.check_name(name) == ""


@pytest.mark.parametrize(
    "name", ["a\nb", "a\tb", "\x00", b"gal\xe9".decode(errors="surrogateescape")]
)
def test_names_that_tables_cannot_hold(name):
    assert names.check_name(name).endswith("expected a name in UTF-8, without control characters")
    assert names.check_name(name).isprintable()


def test_an_image_whose_name_tables_cannot_hold_is_refused(challenge):
    draw_image(challenge / IMAGES / "a\nb.jpg")
    with pytest.raises(UserError, match=r"a\\nb\.jpg': expected a name in UTF-8"):
        read(challenge)


def test_the_real_catalogue_is_read_whole(real_data):
    galaxies, left_out, *_ = read(real_data)
    assert len(galaxies) == 3665
    assert left_out.empty
