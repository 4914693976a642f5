"""The synthetic sky: its population, its crowd, its pictures, its cache, its page."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gzjax.data import sky, sky_light, sky_render
from gzjax.data import sky_population as population
from gzjax.data.sky_crowd import expected_conditional
from gzjax.tree import GALAXY_ZOO_2, violations

# Of 12,316 rows of the challenge's table, training_solutions_rev1.csv.
REAL_MEANS = {
    "Class1.1": 0.436,  # smooth
    "Class1.2": 0.539,  # features or disk
    "Class1.3": 0.026,  # star or artifact
    "Class2.1": 0.105,  # edge-on
    "Class3.1": 0.102,  # barred
    "Class4.1": 0.216,  # spiral
    "Class5.3": 0.176,  # obvious bulge
    "Class6.1": 0.229,  # odd
    "Class7.1": 0.172,  # completely round
    "Class8.1": 0.033,  # ring
    "Class8.6": 0.042,  # merger
    "Class9.1": 0.063,  # rounded bulge, edge-on
    "Class10.1": 0.094,  # tightly wound
    "Class11.2": 0.094,  # two arms
    "Class11.6": 0.073,  # arms that cannot be counted
}
REAL_BASELINE = 0.164  # RMSE of predicting the mean row for every galaxy
SIZE = 24  # of the pictures of drawn skies; one compilation for all tests
GALAXIES = 4096


@pytest.fixture(scope="module")
def survey():
    """(latents, expected fractions, votes) of many galaxies, without pictures."""

    @jax.jit
    @jax.vmap
    def one(index):
        truth, crowd = jax.random.split(sky.galaxy_key(5, index))
        latents = sky.sample(truth)
        return latents, sky.expected_fractions(latents), sky.vote(crowd, latents)

    return jax.tree.map(np.asarray, one(jnp.arange(GALAXIES)))


@pytest.fixture(scope="module")
def photograph():
    """Latents in a list -> uint8[galaxies, 64, 64, 3]; one compilation for up to 16 galaxies."""

    @jax.jit
    def render(latents, field):
        return jax.lax.map(lambda one: sky.render(one, 64, field), latents)

    def take(galaxies, field=0.5):
        filled = [*galaxies, *[galaxies[-1]] * (16 - len(galaxies))]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *filled)
        return np.asarray(render(stacked, field))[: len(galaxies)]

    return take


def galaxy(**changes) -> population.Latents:
    """A bright, red, smooth galaxy on a quiet piece of sky, with changes."""
    latents = {
        "seed": 11,
        "kind": population.SMOOTH,
        "radius": 0.05,
        "axis_ratio": 0.7,
        "angle": 0.4,
        "surface_brightness": 20.0,
        "redness": 0.9,
        "sersic": 2.0,
        "bulge": 1.0,
        "bulge_shape": population.ROUNDED,
        "bar": 0.0,
        "bar_length": 0.9,
        "bar_angle": 0.7,
        "arms": 0,
        "arm_contrast": 0.0,
        "arm_phase": 1.0,
        "pitch": 0.3,
        "winding": 1.0,
        "odd": population.PLAIN,
        "odd_strength": 0.0,
        "odd_angle": 2.0,
        "trail": 0.0,
        "view": 85.0,
        "seeing": 1.1,
    }
    assert set(changes) <= set(latents)
    integers = {name: np.int32 for name in ("kind", "bulge_shape", "arms", "odd")}
    integers["seed"] = np.uint32
    return population.Latents(
        **{
            name: jnp.asarray(value, integers.get(name, np.float32))
            for name, value in (latents | changes).items()
        }
    )


disk = functools.partial(
    galaxy, kind=population.DISK, radius=0.06, redness=0.4, bulge=0.12, surface_brightness=20.7
)


def column(name: str) -> int:
    return GALAXY_ZOO_2.columns.index(name)


def question(number: int) -> slice:
    return GALAXY_ZOO_2.questions[number - 1].columns


compiled_conditional = jax.jit(expected_conditional)


def expected(latents: population.Latents) -> np.ndarray:
    return np.asarray(compiled_conditional(latents))


def shape_of(image: np.ndarray, level: float = 60.0) -> tuple[float, float]:
    """(axis ratio, position angle) of what is brighter than a level, from its second moments.

    Isophotes of an ellipse keep its shape under any stretch.
    """
    y, x = np.nonzero(image.mean(axis=2) > level)
    middle = (len(image) - 1) / 2
    near = np.hypot(x - middle, y - middle) < 0.35 * len(image)
    moments = np.cov(np.stack([x[near], -y[near]]))
    values, vectors = np.linalg.eigh(moments)
    return float(np.sqrt(values[0] / values[1])), float(np.arctan2(*vectors[::-1, 1]) % np.pi)


def around(image: np.ndarray, radius: float, points: int = 240) -> np.ndarray:
    """Mean brightness along a circle, radius in fractions of a side: float[points]."""
    angles = 2 * np.pi * np.arange(points) / points
    middle = (len(image) - 1) / 2
    x = np.rint(middle + radius * len(image) * np.cos(angles)).astype(int)
    y = np.rint(middle - radius * len(image) * np.sin(angles)).astype(int)
    return image.mean(axis=2)[y, x]


# --- the crowd ---


def test_votes_obey_the_tree(survey):
    _, means, votes = survey
    for fractions in (means, votes):
        assert fractions.dtype == np.float32
        assert fractions.min() >= 0
        assert fractions.max() <= 1
        assert np.asarray(violations(fractions)).max() <= 2e-6
        for number in (1, 6):
            np.testing.assert_allclose(fractions[:, question(number)].sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(votes * sky.VOLUNTEERS, np.rint(votes * sky.VOLUNTEERS), atol=1e-4)


def test_means_are_near_the_real_ones(survey):
    means = survey[2].mean(axis=0)
    for name, real in REAL_MEANS.items():
        assert means[column(name)] == pytest.approx(real, abs=max(0.008, 0.12 * real)), name


def test_every_answer_is_given(survey):
    votes = survey[2]
    for name, fractions in zip(GALAXY_ZOO_2.columns, votes.T, strict=True):
        assert (fractions > 0.15).sum() >= 10, name


def test_as_hard_as_the_real_table_and_not_hopeless(survey):
    _, means, votes = survey
    baseline = np.sqrt(np.mean((votes - votes.mean(axis=0)) ** 2))
    floor = np.sqrt(np.mean((votes - means) ** 2))
    assert baseline == pytest.approx(REAL_BASELINE, abs=0.012)
    assert 0.15 * baseline < floor < 0.3 * baseline


def test_truth_shows_in_the_votes(survey):
    latents, _, votes = survey

    def share(answer, gate, chosen):
        return votes[chosen, column(answer)].sum() / votes[chosen, column(gate)].sum()

    disks = latents.kind == population.DISK
    edge_on, facing = latents.axis_ratio < 0.15, latents.axis_ratio > 0.6
    assert share("Class2.1", "Class1.2", disks & edge_on) > 0.85
    assert share("Class2.1", "Class1.2", disks & facing) < 0.1
    bar = share("Class3.1", "Class2.2", disks & facing & (latents.bar > 0.7))
    assert bar > 0.6 > 0.2 > share("Class3.1", "Class2.2", disks & facing & (latents.bar == 0))
    stars = latents.kind == population.STAR
    assert votes[stars, column("Class1.3")].mean() > 0.7
    clear = disks & facing & (latents.arm_contrast > 0.75) & (latents.surface_brightness < 21.5)
    for arms in (1, 2, 3, 4):
        mean = votes[clear & (latents.arms == arms), question(11)].mean(axis=0)
        assert mean.argmax() == arms - 1
    for odd in range(1, 8):
        mean = votes[(latents.odd == odd) & (latents.odd_strength > 0.75), question(8)].mean(axis=0)
        assert mean.argmax() == odd - 1
    for shape in range(3):
        mean = votes[disks & edge_on & (latents.bulge_shape == shape), question(9)].mean(axis=0)
        assert mean.argmax() == shape


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [
        (disk(bulge=0.02), disk(bulge=0.6), "Class5.4"),
        (
            disk(arms=2, arm_contrast=1.0, pitch=0.5),
            disk(arms=2, arm_contrast=1.0, pitch=0.15),
            "Class10.1",
        ),
        (disk(arms=2, arm_contrast=0.2), disk(arms=2, arm_contrast=0.9), "Class4.1"),
        (disk(bar=0.9, view=45.0), disk(bar=0.9, view=200.0), "Class3.1"),
        (disk(bar=0.9, surface_brightness=22.8), disk(bar=0.9), "Class3.1"),
        (galaxy(axis_ratio=0.5), galaxy(axis_ratio=1.0), "Class7.1"),
        (galaxy(axis_ratio=0.5), galaxy(axis_ratio=0.23), "Class7.3"),
    ],
)
def test_the_clearer_the_surer(low, high, answer):
    assert expected(high)[column(answer)] > expected(low)[column(answer)] + 0.1


def test_vote_agrees_with_an_independent_walk():
    """A NumPy crowd, question by question with the number who came by it, and a large JAX one."""
    volunteers = 10_000
    latents = disk(arms=2, arm_contrast=0.6, bar=0.4, odd=population.RING, odd_strength=0.4)
    conditional = expected(latents).astype(np.float64)
    generator = np.random.default_rng(0)
    # By hand: the first column of each question, and the column that opens it.
    first = [0, 3, 5, 7, 9, 13, 15, 18, 25, 28, 31, 37]
    gates = [None, 1, 4, 4, 4, None, 0, 13, 3, 7, 7]
    counts = np.zeros(37)
    for number, gate in enumerate(gates):
        answers = slice(first[number], first[number + 1])
        asked = volunteers if gate is None else int(counts[gate])
        share = conditional[answers] / conditional[answers].sum()
        counts[answers] = generator.multinomial(asked, share)
    votes = jax.jit(sky.vote, static_argnames="volunteers")
    many = np.asarray(votes(jax.random.key(1), latents, volunteers=volunteers))
    endless = np.asarray(sky.expected_fractions(latents))
    np.testing.assert_allclose(many, endless, atol=0.02)
    np.testing.assert_allclose(counts / volunteers, endless, atol=0.02)


# --- pictures ---


def test_axis_ratio_and_angle_show_in_pixels(photograph):
    truth = [(0.35, 0.2), (0.5, 1.0), (0.65, 1.9), (0.8, 2.8)]
    pictures = photograph([galaxy(axis_ratio=ratio, angle=angle) for ratio, angle in truth])
    for picture, (ratio, angle) in zip(pictures, truth, strict=True):
        measured, turned = shape_of(picture)
        assert measured == pytest.approx(ratio, abs=0.08)
        assert abs((turned - angle + np.pi / 2) % np.pi - np.pi / 2) < 0.15


def test_latents_show_in_pixels(photograph):
    face_on = functools.partial(disk, axis_ratio=1.0, radius=0.07)
    plain, ring, red, faint, star, *spirals = photograph(
        [
            face_on(),
            face_on(odd=population.RING, odd_strength=1.0),
            face_on(redness=1.0),
            face_on(surface_brightness=22.5),
            galaxy(kind=population.STAR),
            *[face_on(arms=arms, arm_contrast=1.0) for arms in (1, 2, 3, 4)],
        ]
    )
    profiles = [
        [around(picture, radius).mean() for radius in np.linspace(0.04, 0.4, 19)]
        for picture in (plain, ring)
    ]
    assert np.diff(profiles[0]).max() < 4  # falls, but for noise
    assert np.diff(profiles[1]).max() > 8  # rises again
    assert red[..., 0].sum() / red[..., 2].sum() > 1.4 * plain[..., 0].sum() / plain[..., 2].sum()
    assert faint.mean() < 0.6 * plain.mean()
    assert star[30:34, 30:34].mean() > 200
    for arms, spiral in enumerate(spirals, start=1):
        waves = sum(
            np.abs(np.fft.rfft(around(spiral, radius)))[1:7] for radius in (0.15, 0.18, 0.21)
        )
        assert waves.argmax() == arms - 1


def test_merger_has_two_nuclei_and_dust_lane_is_dark(photograph):
    merger, single, dusty, clean = photograph(
        [
            galaxy(odd=population.MERGER, odd_strength=0.9, angle=0.0, odd_angle=0.0),
            galaxy(angle=0.0),
            disk(axis_ratio=0.13, bulge=0.3, odd=population.DUST_LANE, odd_strength=1.0, angle=0.0),
            disk(axis_ratio=0.13, bulge=0.3, angle=0.0),
        ]
    )
    # The companion is to the right, the lane along the middle row.
    assert merger[28:36, 41:45].mean() > single[28:36, 41:45].mean() + 25
    assert dusty[31:33, 26:38].mean() < 0.75 * clean[31:33, 26:38].mean()


def test_field_is_a_part_of_the_whole(photograph):
    latents = disk(axis_ratio=0.6, arms=2, arm_contrast=0.9)
    whole = photograph([latents], 1.0)[0].astype(float)
    part = photograph([latents], 0.5)[0].astype(float)
    part = part.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(part - whole[16:48, 16:48]).mean() < 5
    assert np.corrcoef(part.ravel(), whole[16:48, 16:48].ravel())[0, 1] > 0.98


@pytest.mark.parametrize(("size", "field"), [(16, 1.0), (51, 0.4), (424, 1.0)])
def test_any_size(size, field):
    image = jax.eval_shape(lambda one: sky.render(one, size, field), galaxy())
    assert (image.shape, image.dtype) == ((size, size, 3), np.uint8)


@pytest.mark.parametrize("index", [0.6, 1.0, 2.5, 4.0])
def test_sersic_holds_its_light(index):
    radius = np.geomspace(1e-5, 1e3, 200_000)
    light = np.asarray(sky_light.sersic(jnp.asarray(radius), 1.0, index), np.float64)
    within = np.cumsum(2 * np.pi * radius**2 * light * np.gradient(np.log(radius)))
    assert within[-1] == pytest.approx(1, abs=5e-3)
    assert np.interp(1, radius, within) == pytest.approx(0.5, abs=5e-3)


def test_stretch_keeps_colours_and_order():
    light = (
        jnp.geomspace(0.02, 300, 40)[None, None, :] * jnp.asarray((0.5, 1.0, 1.4))[:, None, None]
    )
    levels = np.asarray(sky_render.stretch(light))[0].astype(float)
    assert (np.diff(levels, axis=0) >= 0).all()
    assert levels.max() == 255
    bright = levels[levels[:, 2] > 40]
    np.testing.assert_allclose(
        bright[:, 2] / bright[:, 0], bright[-1, 2] / bright[-1, 0], rtol=0.03
    )
    assert sky_render.stretch(-light).max() == 0


# --- the same galaxy, always ---


def test_a_galaxy_depends_on_seed_and_index_alone():
    def drawn(galaxies, seed):
        chunks = list(sky.draw_sky(galaxies, seed, SIZE, 0.5))
        return [np.concatenate(arrays) for arrays in zip(*chunks, strict=True)]

    many, few, other = drawn(sky.CHUNK + 5, 0), drawn(3, 0), drawn(3, 1)
    assert many[0].shape == (sky.CHUNK + 5, SIZE, SIZE, 3)
    assert many[1].shape == (sky.CHUNK + 5, 37)
    # The same in any company: the last of them, drawn first.
    last = np.arange(sky.CHUNK + 4, 4, -1, dtype=np.uint32)
    alone = sky._draw_chunk(np.uint32(0), last, SIZE, 0.5)
    for all_of_them, some, others, turned in zip(many, few, other, alone, strict=True):
        np.testing.assert_array_equal(all_of_them[:3], some)
        np.testing.assert_array_equal(all_of_them[:4:-1], turned)
        assert not np.array_equal(some, others)
    assert len(np.unique(many[0].reshape(len(many[0]), -1), axis=0)) == len(many[0])


# --- the cache ---


@pytest.fixture
def load(tmp_path):
    return functools.partial(sky.load_sky, 7, seed=3, size=SIZE, field=0.5, cache=tmp_path / "sky")


@pytest.fixture
def no_drawing(monkeypatch):
    def forbid():
        def draw_sky(*_):
            raise AssertionError("drawn again")

        monkeypatch.setattr(sky, "draw_sky", draw_sky)

    return forbid


def test_second_load_reads_the_cache(load, no_drawing, tmp_path):
    steps = []
    images, fractions = load(progress=lambda done, of: steps.append((done, of)))
    assert (images.shape, images.dtype) == ((7, SIZE, SIZE, 3), np.uint8)
    assert (fractions.shape, fractions.dtype) == ((7, 37), np.float32)
    assert isinstance(images, np.memmap)
    assert not images.flags.writeable
    assert steps == [(7, 7)]
    assert len(list((tmp_path / "sky").iterdir())) == 2
    no_drawing()
    for first, second in zip((images, fractions), load(), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("kind", ["images", "fractions"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "other shape", "archive"])
def test_damaged_files_are_drawn_anew(load, tmp_path, kind, damage):
    before = [np.array(array) for array in load()]
    (file,) = (tmp_path / "sky").glob(f"*.{kind}.npy")
    whole = file.read_bytes()
    file.unlink()  # a new file, as a memory map of the old one may be open
    if damage == "other shape":
        np.save(file, np.zeros((2, 2), np.float32))
    elif damage == "archive":
        with file.open("wb") as stream:
            np.savez(stream, images=np.zeros(3))
    else:
        file.write_bytes({"truncated": whole[:-100], "empty": b"", "text": b"not a sky"}[damage])
    for first, second in zip(before, load(), strict=True):
        np.testing.assert_array_equal(first, second)
    assert file.read_bytes() == whole


def test_nothing_unfinished_is_left_behind(load, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(sky.os, "replace", fail)
    with pytest.raises(OSError, match="disk is full"):
        load()
    assert list((tmp_path / "sky").iterdir()) == []


def test_every_option_has_its_own_file(load, tmp_path):
    load()
    load(seed=4)
    assert len(list((tmp_path / "sky").iterdir())) == 4


@pytest.mark.parametrize("wrong", [{"size": 0}, {"field": 0.0}, {"field": 1.5}])
def test_impossible_skies(load, wrong):
    with pytest.raises(ValueError, match="no such sky"):
        load(**wrong)


# --- the page ---


def test_page(tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    for number in range(3):
        Image.new("RGB", (60, 60), (90, 0, 0)).save(real / f"{number}.jpg")
    file = tmp_path / "new" / "sky.png"
    options = ["--galaxies", "6", "--columns", "4", "--size", str(SIZE), "--captions"]
    sky.main(["--sheet", str(file), "--beside", str(real), *options])
    page = np.asarray(Image.open(file))
    assert page.shape == (2 * (SIZE + 2) - 2 + 6 + SIZE, 4 * (SIZE + 2) - 2, 3)
    assert page[-SIZE // 2, SIZE // 2, 0] > 60


@pytest.mark.parametrize(
    ("latents", "says"),
    [
        (galaxy(axis_ratio=1.0), "completely round"),
        (galaxy(kind=population.STAR), "star or artifact"),
        (disk(axis_ratio=0.12), "edge-on"),
        (disk(axis_ratio=1.0, arms=2, arm_contrast=1.0, bar=1.0), "barred disk, 2 arms"),
        (
            disk(axis_ratio=1.0, odd=population.RING, odd_strength=1.0),
            "disk, ring",
        ),
    ],
)
def test_captions(latents, says):
    assert sky.caption(np.asarray(sky.expected_fractions(latents))) == says
