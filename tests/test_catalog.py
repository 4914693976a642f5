import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from PIL import Image

from gzjax.data import catalog
from gzjax.errors import UserError
from gzjax.tree import GALAXY_ZOO_2

TABLE, IMAGES = "training_solutions_rev1.csv", "images_training_rev1"


def draw_image(path, size=48):
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def challenge(tmp_path, crowd):
    """A folder in the challenge's layout: 64 galaxies with IDs from 100."""
    (tmp_path / IMAGES).mkdir()
    table = pd.DataFrame(crowd, columns=list(GALAXY_ZOO_2.columns))
    table.insert(0, "GalaxyID", [str(100 + n) for n in range(64)])
    table.to_csv(tmp_path / TABLE, index=False)
    for galaxy in table["GalaxyID"]:
        draw_image(tmp_path / IMAGES / f"{galaxy}.jpg")
    return tmp_path


def rewrite(root, change):
    path = root / TABLE
    table = pd.read_csv(path, dtype={"GalaxyID": str})
    change(table).to_csv(path, index=False)


def test_a_good_folder_is_read_whole(challenge, crowd):
    galaxies, left_out = catalog.read_catalogue(challenge, decode=True)
    assert len(galaxies) == 64
    assert left_out.empty
    assert list(galaxies.index[:2]) == ["100", "101"]
    np.testing.assert_allclose(galaxies[list(GALAXY_ZOO_2.columns)], crowd, atol=1e-6)
    assert galaxies["file"].iloc[0].endswith("100.jpg")


def test_columns_in_another_order_are_put_right(challenge, crowd):
    rewrite(challenge, lambda table: table[table.columns[::-1]])
    galaxies, _ = catalog.read_catalogue(challenge)
    np.testing.assert_allclose(galaxies[list(GALAXY_ZOO_2.columns)], crowd, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns=["Class3.1"]), "1 missing: Class3.1"),
        (lambda t: t.rename(columns={"GalaxyID": "id"}), "missing: GalaxyID"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "100 is there twice .again in line 66."),
        (lambda t: t.assign(**{"Class1.1": 1.5}), r"line 2, Class1.1: .* found 1.5; 64 such"),
        (lambda t: t.assign(**{"Class2.2": float("nan")}), "line 2, Class2.2: .* found nan"),
        (lambda t: t.assign(**{"Class2.2": "high"}), "Class2.2: .* found high"),
        (lambda t: t.assign(**{"Class7.1": 0.9}), "rows break the decision tree.*withdrawn"),
        (lambda t: t.iloc[:0], "found none"),
        (lambda t: t.assign(GalaxyID=[None] + list(t.GalaxyID[1:])), "line 2 has no GalaxyID"),
    ],
)
def test_faults_in_the_table_are_named(challenge, change, message):
    rewrite(challenge, change)
    with pytest.raises(UserError, match=message) as raised:
        catalog.read_catalogue(challenge)
    assert TABLE in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_places_are_named(tmp_path, challenge):
    with pytest.raises(UserError, match=r"nowhere: no such folder; --config\.data\.root"):
        catalog.read_catalogue(tmp_path / "nowhere")
    (challenge / IMAGES).rename(challenge / "elsewhere")
    with pytest.raises(UserError, match=f"{IMAGES}: no such folder"):
        catalog.read_catalogue(challenge)
    (challenge / TABLE).unlink()
    with pytest.raises(UserError, match=f"{TABLE}: no such file"):
        catalog.read_catalogue(challenge)


def many(root, crowd, galaxies=200):
    """Grows the folder so that one galaxy is less than one per cent."""
    fractions = np.concatenate([crowd] * 4)[:galaxies]
    table = pd.DataFrame(fractions, columns=list(GALAXY_ZOO_2.columns))
    table.insert(0, "GalaxyID", [str(100 + n) for n in range(galaxies)])
    table.to_csv(root / TABLE, index=False)
    for galaxy in table["GalaxyID"]:
        draw_image(root / IMAGES / f"{galaxy}.jpg", 20)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda file: file.unlink(), "row without image"),
        (lambda file: file.write_bytes(file.read_bytes()[:-40]), "truncated"),
        (lambda file: file.write_text("<html>404</html>"), "not readable as an image"),
        (lambda file: file.write_bytes(b""), "not readable as an image"),
        (lambda file: draw_image(file, 8), "too small: 8 x 8"),
    ],
)
def test_a_lost_image_is_left_out_and_listed(challenge, crowd, spoil, reason):
    many(challenge, crowd)
    spoil(challenge / IMAGES / "103.jpg")
    galaxies, left_out = catalog.read_catalogue(challenge)
    assert len(galaxies) == 199
    assert "103" not in galaxies.index
    assert left_out["GalaxyID"].tolist() == ["103"]
    assert left_out["reason"].iloc[0].startswith(reason)


def test_an_image_without_row_is_listed_and_costs_nothing(challenge):
    for name in ("x1", "x2", "x3"):
        draw_image(challenge / IMAGES / f"{name}.png")
    galaxies, left_out = catalog.read_catalogue(challenge)
    assert len(galaxies) == 64
    assert left_out["reason"].tolist() == ["image without row"] * 3


def test_losing_more_than_a_hundredth_stops_the_run(challenge):
    (challenge / IMAGES / "103.jpg").unlink()
    (challenge / IMAGES / "104.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"2 of 64 .* more than 1%: 1 without .* 1 with a broken"):
        catalog.read_catalogue(challenge)


def test_two_images_of_one_galaxy_are_refused(challenge):
    draw_image(challenge / IMAGES / "100.png")
    with pytest.raises(UserError, match=r"100\.jpg and 100\.png"):
        catalog.read_catalogue(challenge)


def test_the_student_projects_layout_is_read_too(tmp_path, crowd):
    for answer in (1, 2, 3):
        (tmp_path / f"Class1.{answer}").mkdir()
        table = pd.DataFrame(crowd[answer : answer + 2], columns=list(GALAXY_ZOO_2.columns))
        table.insert(0, "GalaxyID", [10 * answer, 10 * answer + 1])
        table.to_csv(tmp_path / f"Class1.{answer}.csv", index=False)
        for galaxy in table["GalaxyID"]:
            draw_image(tmp_path / f"Class1.{answer}" / f"{galaxy}.jpg")
    galaxies, left_out = catalog.read_catalogue(tmp_path)
    assert list(galaxies.index) == ["10", "11", "20", "21", "30", "31"]
    assert left_out.empty
    with pytest.raises(UserError, match=r"training_solution\.csv: no such file"):
        catalog.read_catalogue(tmp_path, table="training_solution.csv")  # misspelt


@given(
    ids=st.lists(st.integers(1, 10**6), min_size=1, max_size=200, unique=True),
    seed=st.integers(0, 9),
)
@settings(max_examples=30, deadline=None)
def test_splits_cover_everything_once_and_stay_when_galaxies_are_added(ids, seed):
    names = [str(galaxy) for galaxy in ids]
    splits = catalog.split(names, seed)
    assert sorted(np.concatenate(list(splits.values()))) == list(range(len(ids)))
    more = catalog.split([*names, "added", "later"], seed)
    for name, rows in splits.items():
        assert set(rows) == {row for row in more[name] if row < len(ids)}


def test_splits_are_eighty_ten_ten_and_depend_on_the_seed():
    names = [str(galaxy) for galaxy in range(20000)]
    splits = catalog.split(names)
    assert len(splits["train"]) / 20000 == pytest.approx(0.8, abs=0.01)
    assert len(splits["validation"]) / 20000 == pytest.approx(0.1, abs=0.01)
    assert set(splits["test"]) != set(catalog.split(names, 1)["test"])


def test_the_real_catalogue_is_read_whole(real_data):
    galaxies, left_out = catalog.read_catalogue(real_data)
    assert len(galaxies) == 3665
    assert left_out.empty


def test_a_larger_part_kept_apart_holds_the_smaller():
    names = [str(number) for number in range(20_000)]
    small, large = (catalog.split(names, 3, 0.05, part) for part in (0.02, 0.2))
    assert set(small["test"]) < set(large["test"])
    for found, part in ((small, 0.02), (large, 0.2)):
        assert len(found["test"]) / 20_000 == pytest.approx(part, abs=0.01)
        assert len(found["validation"]) / 20_000 == pytest.approx(0.05, abs=0.01)
        together = np.concatenate(list(found.values()))
        assert sorted(together) == list(range(20_000))
