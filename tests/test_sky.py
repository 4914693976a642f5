"""The synthetic sky: its population, light, camera, crowd, cache and page."""

import dataclasses
import functools
import json
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gzjax import sky
from gzjax.errors import UserError
from gzjax.sky import camera, crowd, light, population, store
from gzjax.tree import Question, Tree, cumulative_fractions, load, violations

# All that the crowd walks.
TREES = {
    name: load(name)
    for name in ("gz2", "ukidss", "decals-dr5", "decals-dr8", "desi", "decals-dr12", "rings")
}
GZ2, DR5, DR12, RINGS = (TREES[name] for name in ("gz2", "decals-dr5", "decals-dr12", "rings"))
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
REAL_BASELINE = 0.164  # RMSE of predicting the mean for every galaxy
SIZE = 16  # of the pictures of drawn skies; one compilation for all tests
GALAXIES = 4096
# What VERSION 1 promises: of the survey, and pictures of all sorts of galaxies. If they are to
# change, count VERSION up, and save `miniature(album)` as REFERENCE.
REFERENCE = Path(__file__).with_name("sky-v1.png")
MEANS = json.loads(Path(__file__).with_name("sky-v1.json").read_text())


@pytest.fixture(autouse=True, scope="module")
def small_chunks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "CHUNK", 4)
        yield


def endless_crowd(latents, tree):
    """The cumulative vote fractions of one galaxy that an infinite crowd would give."""
    return cumulative_fractions(crowd.expected_conditional(latents, tree), tree)


@pytest.fixture(scope="module")
def survey():
    """(latents, expected fractions, vote fractions) of many galaxies, without pictures."""

    @jax.jit
    @jax.vmap
    def one(index):
        latents, _, votes = store.draw(5, index, GZ2, SIZE)
        return latents, endless_crowd(latents, GZ2), votes / crowd.VOLUNTEERS

    return jax.tree.map(np.asarray, one(jnp.arange(GALAXIES)))


@pytest.fixture(scope="module")
def photograph():
    """Latents in a list -> uint8[galaxies, 64, 64, 3]."""

    @jax.jit
    def render(latents, field):
        return jax.lax.map(lambda one: camera.render(one, 64, field), latents)

    def take(galaxies, field=0.5):
        pictures = []
        for first in range(0, len(galaxies), 8):
            some = galaxies[first : first + 8]
            filled = [*some, *[some[-1]] * (8 - len(some))]
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *filled)
            pictures.append(np.asarray(render(stacked, field))[: len(some)])
        return np.concatenate(pictures)

    return take


@pytest.fixture(scope="module")
def perfect():
    """Latents -> float32[3, 65, 65]: their light, of the central half."""
    across = jnp.linspace(-0.25, 0.25, 65)

    @jax.jit
    def take(latents):
        key = jax.random.key(0, impl="threefry2x32")
        return light.galaxy_light(latents, key, across[None, :], -across[:, None], 0.002)

    return lambda **changes: np.asarray(take(galaxy(**changes)), np.float64)


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
            name: np.asarray(value, integers.get(name, np.float32))
            for name, value in (latents | changes).items()
        }
    )


DISK = {
    "kind": population.DISK,
    "radius": 0.06,
    "redness": 0.4,
    "bulge": 0.12,
    "surface_brightness": 20.7,
}
disk = functools.partial(galaxy, **DISK)
face_on = functools.partial(disk, axis_ratio=1.0, radius=0.07)
ODD = {
    "ring": population.RING,
    "lens": population.LENS,
    "disturbed": population.DISTURBED,
    "irregular": population.IRREGULAR,
    "other": population.OTHER,
    "merger": population.MERGER,
    "dust lane": population.DUST_LANE,
}
EDGE_ON = {"axis_ratio": 0.13, "bulge": 0.3, "angle": 0.0}
ZOO = {
    "smooth": galaxy(),
    "smooth, 0.35": galaxy(axis_ratio=0.35, angle=0.2),
    "smooth, 0.5": galaxy(axis_ratio=0.5, angle=1.0),
    "smooth, 0.65": galaxy(axis_ratio=0.65, angle=1.9),
    "smooth, 0.8": galaxy(axis_ratio=0.8, angle=2.8),
    "level": galaxy(angle=0.0),
    "merger on the right": galaxy(odd=ODD["merger"], odd_strength=0.9, angle=0.0, odd_angle=0.0),
    "plain": face_on(),
    "red": face_on(redness=1.0),
    "faint": face_on(surface_brightness=22.5),
    "far": face_on(view=45.0, seeing=1.6, seed=7),
    "tilted, bright sky": disk(axis_ratio=0.4, arms=2, arm_contrast=0.8, seed=2, view=250.0),
    "star": galaxy(kind=population.STAR),
    "trail": galaxy(kind=population.STAR, trail=1.0, surface_brightness=21.0),
    "green trail": galaxy(kind=population.STAR, trail=1.0, surface_brightness=21.0, seed=12),
    **{f"{arms} arms": face_on(arms=arms, arm_contrast=1.0) for arms in range(1, 7)},
    "wound": face_on(arms=2, arm_contrast=1.0, winding=-1.0, pitch=0.2, arm_phase=2.0, seed=1),
    "barred": disk(axis_ratio=0.8, bar=1.0, radius=0.07, bar_length=1.2),
    **{f"face-on {name}": face_on(odd=odd, odd_strength=0.8) for name, odd in ODD.items()},
    **{f"smooth {name}": galaxy(odd=odd, odd_strength=1.0) for name, odd in ODD.items()},
    "clean": disk(**EDGE_ON),
    "dusty": disk(odd=ODD["dust lane"], odd_strength=1.0, **EDGE_ON),
    "boxy": disk(bulge_shape=population.BOXY, **EDGE_ON),
    "bulgeless": disk(bulge_shape=population.NO_BULGE, **EDGE_ON | {"bulge": 0.01}),
}


@pytest.fixture(scope="module")
def album(photograph):
    """{name: uint8[64, 64, 3]} of the zoo."""
    return dict(zip(ZOO, photograph(list(ZOO.values())), strict=True))


def miniature(album) -> np.ndarray:
    """uint8[height, width, 3]: the pictures of an album, reduced to 16 pixels, in rows of 8."""
    small = np.stack(list(album.values())).reshape(-1, 16, 4, 16, 4, 3).mean(axis=(2, 4))
    small = np.concatenate([small, np.zeros((-len(small) % 8, 16, 16, 3))])
    rows = small.reshape(-1, 8, 16, 16, 3).swapaxes(1, 2)
    return np.rint(rows.reshape(-1, 128, 3)).astype(np.uint8)


def column(name: str) -> int:
    return GZ2.columns.index(name)


def question(number: int) -> slice:
    return GZ2.questions[number - 1].columns


compiled_conditional = jax.jit(crowd.expected_conditional, static_argnames="tree")
compiled_vote = jax.jit(crowd.vote, static_argnames=("tree", "volunteers"))


def expected(latents: population.Latents, tree: Tree = GZ2) -> np.ndarray:
    return np.asarray(compiled_conditional(latents, tree=tree))


def shape_of(image: np.ndarray, level: float) -> tuple[float, float]:
    """(axis ratio, position angle) of what is brighter than a level, from its second moments.

    Isophotes of an ellipse keep its shape under any stretch.
    """
    y, x = np.nonzero(image > level)
    middle = (len(image) - 1) / 2
    near = np.hypot(x - middle, y - middle) < 0.35 * len(image)
    moments = np.cov(np.stack([x[near], -y[near]]))
    values, vectors = np.linalg.eigh(moments)
    return float(np.sqrt(values[0] / values[1])), float(np.arctan2(*vectors[::-1, 1]) % np.pi)


TURNS = 2 * np.pi * np.arange(240) / 240


def around(image: np.ndarray, radius: float) -> np.ndarray:
    """Values of an image[n, n] along a circle, radius in fractions of a side, at TURNS."""
    middle = (len(image) - 1) / 2
    x = np.rint(middle + radius * len(image) * np.cos(TURNS)).astype(int)
    y = np.rint(middle - radius * len(image) * np.sin(TURNS)).astype(int)
    return image[y, x]


def apart(angle: float, other: float, turn: float = 2 * np.pi) -> float:
    """Difference of angles."""
    return abs((angle - other + turn / 2) % turn - turn / 2)


# --- the same sky, always ---


def test_version_1_means_this_population_and_crowd(survey):
    latents, means, votes = survey
    found = {name: values.mean(dtype=np.float64) for name, values in latents._asdict().items()}
    assert found == pytest.approx(MEANS["latents"], rel=1e-5, abs=1e-6)
    assert means.mean(axis=0, dtype=np.float64) == pytest.approx(MEANS["expected"], rel=1e-5)
    assert votes.mean(axis=0, dtype=np.float64) == pytest.approx(MEANS["votes"], rel=1e-3)
    crowd_of_the_zoo = np.mean([expected(latents) for latents in ZOO.values()], axis=0)
    assert crowd_of_the_zoo == pytest.approx(MEANS["zoo"], rel=1e-5)
    for tree in (DR5, DR12, RINGS):
        crowd_of_the_zoo = np.mean([expected(latents, tree) for latents in ZOO.values()], axis=0)
        assert crowd_of_the_zoo == pytest.approx(MEANS[f"zoo, {tree.name}"], rel=1e-5)


def test_version_1_means_these_pictures(album):
    found, wanted = miniature(album), np.asarray(Image.open(REFERENCE))
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).max() <= 1


def test_a_galaxy_depends_on_seed_and_index_alone():
    def drawn(galaxies, seed):
        chunks = list(store.draw_sky(store.Sky(GZ2, galaxies, seed, SIZE, 0.5)))
        return [np.concatenate(arrays) for arrays in zip(*chunks, strict=True)]

    many, few, other = drawn(store.CHUNK + 3, 0), drawn(3, 0), drawn(3, 1)
    assert many[0].shape == (store.CHUNK + 3, SIZE, SIZE, 3)
    assert many[1].shape == (store.CHUNK + 3, 37)
    # The same in any company: the last of them, drawn first.
    last = np.arange(6, 6 - store.CHUNK, -1, dtype=np.uint32)
    # As `draw_sky` does: the same compiled program.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        alone = store._draw_chunk(np.uint32(0), last, GZ2, SIZE, 0.5)
    for all_of_them, some, others, turned in zip(many, few, other, alone, strict=True):
        np.testing.assert_array_equal(all_of_them[:3], some)
        np.testing.assert_array_equal(all_of_them[:2:-1], turned)
        assert not np.array_equal(some, others)
    assert len(np.unique(many[0].reshape(len(many[0]), -1), axis=0)) == len(many[0])


# --- the crowd ---


def test_votes_obey_the_tree(survey):
    _, means, votes = survey
    for fractions in (means, votes):
        assert fractions.dtype == np.float32
        assert fractions.min() >= 0
        assert fractions.max() <= 1
        assert np.asarray(violations(fractions, GZ2)).max() <= 2e-6


@pytest.mark.parametrize("name", TREES)
def test_votes_are_counts_that_obey_the_tree(name):
    tree, latents = TREES[name], jax.tree.map(lambda *values: np.stack(values), *ZOO.values())

    @jax.jit
    @jax.vmap
    def walk(latents, number):
        key = jax.random.key(number)
        return crowd.expected_conditional(latents, tree), crowd.vote(key, latents, tree)

    conditional, votes = map(np.asarray, walk(latents, np.arange(len(ZOO))))
    assert votes.dtype == np.float32
    np.testing.assert_array_equal(votes, np.rint(votes))
    for question in tree.questions:
        own = conditional[:, question.columns]
        np.testing.assert_allclose(own.sum(axis=1), 1, rtol=1e-5)
        assert own.min() >= 0.999 * crowd.LAPSE / len(question.answers)
        gates = votes[:, list(question.gates)].sum(axis=1) if question.gates else 45
        np.testing.assert_array_equal(votes[:, question.columns].sum(axis=1), gates)
    assert (votes.max(axis=0) > 0).mean() > 0.9


def test_means_are_near_the_real_ones(survey):
    means = survey[2].mean(axis=0)
    for name, real in REAL_MEANS.items():
        assert means[column(name)] == pytest.approx(real, abs=max(0.008, 0.12 * real)), name


def test_every_answer_is_given(survey):
    votes = survey[2]
    for name, fractions in zip(GZ2.columns, votes.T, strict=True):
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


def smooth(odd: str, strength: float, **changes) -> population.Latents:
    return galaxy(odd=ODD[odd], odd_strength=strength, **changes)


@pytest.mark.parametrize(
    ("low", "high", "tree", "answer"),
    [
        (disk(bar=0.0), disk(bar=0.6), DR5, "bar_weak"),
        (disk(bar=1.0), disk(bar=0.6), DR5, "bar_weak"),
        (disk(bar=0.5), disk(bar=1.0), DR5, "bar_strong"),
        (disk(bar=1.0, view=45.0), disk(bar=1.0), DR5, "bar_strong"),
        (disk(bar=1.0), disk(bar=0.0), DR5, "bar_no"),
        (disk(bar=0.0), disk(bar=1.0), DR12, "bar_yes"),
        (disk(bulge=0.06), disk(bulge=0.01), DR5, "bulge-size_none"),
        (disk(bulge=0.01), disk(bulge=0.06), DR5, "bulge-size_small"),
        (disk(bulge=0.2), disk(bulge=0.06), DR5, "bulge-size_small"),
        (disk(bulge=0.06), disk(bulge=0.2), DR5, "bulge-size_moderate"),
        (disk(bulge=0.5), disk(bulge=0.2), DR5, "bulge-size_moderate"),
        (disk(bulge=0.2), disk(bulge=0.5), DR5, "bulge-size_large"),
        (disk(bulge=0.8), disk(bulge=0.5), DR5, "bulge-size_large"),
        (disk(bulge=0.5), disk(bulge=0.8), DR5, "bulge-size_dominant"),
        (disk(bulge=0.2), disk(bulge=0.02), DR12, "bulge-size_none"),
        (disk(bulge=0.02), disk(bulge=0.2), DR12, "bulge-size_obvious"),
        (disk(bulge=0.8), disk(bulge=0.2), DR12, "bulge-size_obvious"),
        (disk(bulge=0.2), disk(bulge=0.8), DR12, "bulge-size_dominant"),
        (galaxy(axis_ratio=0.5), galaxy(axis_ratio=1.0), DR5, "how-rounded_round"),
        (galaxy(axis_ratio=0.5), galaxy(axis_ratio=1.0), DR12, "how-rounded_completely"),
        (galaxy(axis_ratio=1.0), galaxy(axis_ratio=0.5), DR5, "how-rounded_in-between"),
        (galaxy(axis_ratio=0.5), galaxy(axis_ratio=0.23), DR5, "how-rounded_cigar-shaped"),
        (galaxy(axis_ratio=0.5), galaxy(axis_ratio=0.23), DR12, "how-rounded_cigar-shaped"),
        (ZOO["clean"], ZOO["boxy"], DR5, "edge-on-bulge_boxy"),
        (ZOO["clean"], ZOO["bulgeless"], DR12, "edge-on-bulge_none"),
        (ZOO["boxy"], ZOO["clean"], DR5, "edge-on-bulge_rounded"),
        (smooth("disturbed", 0.6), galaxy(), DR5, "merging_none"),
        (galaxy(), smooth("disturbed", 0.6), DR5, "merging_minor-disturbance"),
        (smooth("disturbed", 1.0), smooth("disturbed", 0.6), DR5, "merging_minor-disturbance"),
        (smooth("disturbed", 0.6), smooth("disturbed", 1.0), DR5, "merging_major-disturbance"),
        (smooth("merger", 0.5), smooth("merger", 1.0), DR5, "merging_merger"),
        (smooth("merger", 1.0, view=45.0), smooth("merger", 1.0), DR5, "merging_merger"),
        (smooth("disturbed", 1.0), smooth("merger", 1.0), DR5, "merging_merger"),
        (smooth("disturbed", 1.0), galaxy(), DR12, "merging_neither"),
        (galaxy(), smooth("disturbed", 1.0), DR12, "merging_tidal-debris"),
        (smooth("merger", 1.0), smooth("disturbed", 1.0), DR12, "merging_tidal-debris"),
        (smooth("merger", 0.5), smooth("merger", 1.0), DR12, "merging_both"),
        (smooth("disturbed", 1.0), smooth("merger", 1.0), DR12, "merging_both"),
        (galaxy(), smooth("merger", 0.5), DR12, "merging_merger"),
        (galaxy(), smooth("ring", 0.8), RINGS, "ring_yes"),
        (smooth("ring", 0.8, view=45.0), smooth("ring", 0.8), RINGS, "ring_yes"),
        (smooth("lens", 0.8), smooth("ring", 0.8), RINGS, "ring_yes"),
        (smooth("ring", 0.8), galaxy(), RINGS, "ring_no"),
        *(
            (face_on(arms=arms % 5 + 1, arm_contrast=1.0), ZOO[f"{arms} arms"], DR12, answer)
            for arms, answer in enumerate(
                [f"spiral-arm-count_{n}" for n in ("1", "2", "3", "4", "more-than-4")], 1
            )
        ),
    ],
)
def test_truth_moves_the_answers_of_later_trees(low, high, tree, answer):
    names = [f"{each.name}_{answer}" for each in tree.questions for answer in each.answers]
    column = names.index(answer)
    assert expected(high, tree)[column] > expected(low, tree)[column] + 0.1


def test_other_words_for_the_same_truth():
    """Where answers of two trees mean the same they are as likely; before random answers."""
    latents = jax.tree.map(lambda *values: np.stack(values), *ZOO.values())
    known = jax.jit(jax.vmap(crowd.opinions))(latents)

    def of(name, *answers):
        """The probabilities of answers by name, of the question that has all of them."""
        (key,) = (key for key in known if key[0] == name and {*answers} <= {*key[1:]})
        return {answer: known[key][:, key.index(answer) - 1] for answer in key[1:]}

    def same(one, other):
        np.testing.assert_allclose(one, other, atol=2e-6)

    same(of("bar", "weak")["no"], of("bar", "yes")["no"])
    in_5, in_4 = of("bulge-size", "large"), of("bulge-size", "no")
    same(in_5["none"], in_4["no"])
    same(in_5["dominant"], in_4["dominant"])
    same(of("bulge-size", "none", "obvious")["dominant"], in_4["dominant"])
    for one, other in (("round", "cigar-shaped"), ("completely", "cigar-shaped")):
        same(of("how-rounded", one, other)[one], of("how-rounded", "cigar")["round"])
        same(of("how-rounded", one, other)[other], of("how-rounded", "cigar")["cigar"])
    for one, other in (("rounded", "round"), ("boxy", "boxy"), ("none", "no-bulge")):
        same(of("edge-on-bulge", one)[one], of("bulge-shape", other)[other])
    in_4, in_dr5 = of("merging", "both"), of("merging", "none")
    same(in_4["both"] + in_4["merger"], in_dr5["merger"])


def test_some_answers_are_random():
    """An impossible answer gets its part of the lapses: that this round galaxy is edge-on."""
    conditional = expected(galaxy(axis_ratio=1.0))
    assert conditional[column("Class2.1")] == pytest.approx(0.02 / 2, rel=1e-3)
    assert conditional[column("Class7.3")] == pytest.approx(0.02 / 3, rel=1e-2)
    for each in GZ2.questions:
        assert conditional[each.columns].sum() == pytest.approx(1)
        assert conditional[each.columns].min() >= 0.02 / len(each.answers) * 0.999


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
    many = np.asarray(compiled_vote(jax.random.key(1), latents, tree=GZ2, volunteers=volunteers))
    endless = np.asarray(jax.jit(endless_crowd, static_argnums=1)(latents, GZ2))
    np.testing.assert_allclose(many / volunteers, endless, atol=0.02)
    np.testing.assert_allclose(counts / volunteers, endless, atol=0.02)


def tree_of(*questions, name="mine") -> Tree:
    """(name, answers, gates) for each question -> a tree."""
    made, columns = [], []
    for number, (title, answers, gates) in enumerate(questions, start=1):
        made.append(Question(number, title, tuple(answers.split()), len(columns), gates))
        columns += [f"{title}_{answer}" for answer in answers.split()]
    return Tree(name, tuple(made), tuple(columns))


SMALL = (
    ("bar", "no yes", (3,)),
    ("smooth-or-featured", "artifact featured-or-disk smooth", ()),
    ("something-odd", "yes no", (3, 4)),
    ("how-rounded", "cigar round in-between", (4,)),
)


def test_any_tree_of_known_questions_is_walked():
    """In any order of questions and answers, and with gates of several answers."""
    tree, latents = tree_of(*SMALL), disk(bar=0.7, odd=population.MERGER, odd_strength=0.5)
    known = dict(zip(GZ2.columns, expected(latents), strict=True))
    numbers = (3.2, 3.1, 1.3, 1.2, 1.1, 6.1, 6.2, 7.3, 7.1, 7.2)
    names = [f"Class{number}" for number in numbers]
    np.testing.assert_array_equal(expected(latents, tree), [known[name] for name in names])
    votes = np.asarray(compiled_vote(jax.random.key(3), latents, tree=tree, volunteers=1000))
    assert votes.shape == (10,)
    votes = votes / 1000
    np.testing.assert_array_equal(np.asarray(violations(votes, tree)) < 1e-6, True)
    assert votes[5] + votes[6] == pytest.approx(votes[3] + votes[4])
    assert 0.9 < votes[3] + votes[4] < 1 - votes[2] + 1e-6
    infinite = cumulative_fractions(expected(latents, tree), tree)
    np.testing.assert_allclose(votes, infinite, atol=0.06)


def test_a_question_that_the_crowd_does_not_know(tmp_path):
    tree = tree_of(*SMALL, ("clumps", "yes no", ()), ("bar-length", "short long", (1,)))
    with pytest.raises(UserError) as error:
        sky.load_sky(3, tree=tree, seed=0, size=SIZE, cache=tmp_path / "sky")
    assert str(error.value) == (
        "tree mine: expected questions that the synthetic sky's volunteers can answer, found "
        "clumps (yes, no), bar-length (short, long)"
    )
    assert not (tmp_path / "sky").exists()
    # Other answers are another question.
    with pytest.raises(UserError, match=r"found bar \(strong, weak, none\)"):
        expected(disk(), tree_of(("bar", "strong weak none", ())))


# --- light ---


@pytest.mark.parametrize(("index", "half_light"), [(0.6, 1.0), (1.0, 0.2), (2.5, 3.0), (4.0, 1.0)])
def test_sersic_holds_its_light(index, half_light):
    radius = np.geomspace(1e-5, 1e3, 20_000) * half_light
    profile = np.asarray(light.sersic(jnp.asarray(radius), half_light, index), np.float64)
    within = np.cumsum(2 * np.pi * radius**2 * profile * np.gradient(np.log(radius)))
    assert within[-1] == pytest.approx(1, abs=5e-3)
    assert np.interp(half_light, radius, within) == pytest.approx(0.5, abs=5e-3)


def test_colours():
    blue, red, between = (np.ravel(light.colour(redness)) for redness in (0.0, 1.0, 0.5))
    np.testing.assert_allclose(blue, (0.79, 1.0, 1.13), rtol=1e-5)
    np.testing.assert_allclose(red, (0.48, 1.0, 1.45), rtol=1e-5)
    np.testing.assert_allclose(between, np.sqrt(blue * red), rtol=1e-5)


@pytest.mark.parametrize("kind", [{"radius": 0.02, "sersic": 1.0}, DISK | {"radius": 0.04}])
@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_a_galaxy_has_the_light_that_it_is_said_to_have(perfect, kind, ratio):
    """Twice what is within an ellipse of its mean surface brightness; disks hide less of it."""
    found = perfect(**kind | {"axis_ratio": ratio})[1].sum() * (0.5 / 64) ** 2
    mean = 10 ** (0.4 * (22.5 - kind.get("surface_brightness", 20.0)))
    wanted = 2 * np.pi * kind["radius"] ** 2 * mean * ratio**0.7
    assert found == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize("winding", [1.0, -1.0])
def test_arms_are_logarithmic_spirals(perfect, winding):
    options = DISK | {"radius": 0.1, "axis_ratio": 1.0, "angle": 0.5}
    smooth = perfect(**options)[1]
    spiral = perfect(**options, arms=3, arm_contrast=1.0, pitch=0.5, winding=winding)[1]
    for radius in (0.8, 1.0, 1.4, 1.9):
        contrast = around(spiral, 0.2 * radius * 64 / 65) / around(smooth, 0.2 * radius * 64 / 65)
        crest = np.angle(np.sum(contrast * np.exp(3j * TURNS))) / 3
        path = 0.5 + 1.0 + winding * np.log(radius) / np.tan(0.5)
        assert apart(crest, path, 2 * np.pi / 3) < 0.15


def test_a_bar_has_its_angle_and_length(perfect):
    options = DISK | {"radius": 0.1, "axis_ratio": 1.0, "angle": 0.5}
    lit = perfect(**options, bar=1.0, bar_length=1.0)[1] - perfect(**options)[1]
    ratio, angle = shape_of(lit, 0.3 * lit.max())
    assert apart(angle, 0.5 + 0.7, np.pi) < 0.05
    assert ratio == pytest.approx(0.3, abs=0.05)
    longer = perfect(**options, bar=1.0, bar_length=1.3)[1] - perfect(**options)[1]
    level = 0.3 * lit.max()
    assert (longer > level).sum() == pytest.approx(1.3**2 * (lit > level).sum(), rel=0.1)


def test_odd_things_are_where_they_belong(perfect):
    """Each as the light it adds: at `odd_angle` from the major axis, or across it."""

    def added(odd, **options):
        options |= {"angle": 0.5, "radius": 0.08}
        return perfect(odd=odd, odd_strength=1.0, **options)[1] - perfect(**options)[1]

    def place(lit):
        return [
            np.angle(np.sum(around(lit, radius).clip(0) * np.exp(1j * TURNS)))
            for radius in (0.3, 0.34, 0.38)
        ]

    @jax.jit
    def tail_of(latents):
        across = jnp.linspace(-0.25, 0.25, 65) / 0.08 * latents.radius
        places, _ = light._places(latents, key, across[None, :], -across[:, None], 0.002)
        return light._arc(latents, places)

    key = jax.random.key(0)
    y, x = np.mgrid[32:-33:-1, -32:33]
    for angle in (0.3, 2.0):
        lens = place(added(population.LENS, odd_angle=angle))
        assert max(apart(found, 0.5 + angle) for found in lens) < 0.1
        merger = added(population.MERGER, odd_angle=angle).clip(0)
        near = np.hypot(x, y) < 20
        centre = np.sum(((x + 1j * y) * merger**2)[near])
        assert apart(np.angle(centre), 0.5 + angle) < 0.15
        # A tail begins there, too, and winds outwards, counter-clockwise.
        tail = tail_of(galaxy(odd=population.MERGER, odd_strength=1.0, odd_angle=angle, angle=0.5))
        inner, middle, outer = place(np.asarray(tail))
        assert apart(middle, 0.5 + angle) < 0.2
        assert 0.05 < (outer - middle) % (2 * np.pi) < 1
        assert 0.05 < (middle - inner) % (2 * np.pi) < 1
    polar = added(population.OTHER, axis_ratio=0.7)
    assert apart(shape_of(polar, 0.5 * polar.max())[1], 0.5 + np.pi / 2, np.pi) < 0.1
    bent = perfect(odd=population.DISTURBED, odd_strength=1.0, odd_angle=1.2, angle=0.0)[1]
    straight = perfect(angle=0.0)[1]
    assert bent[:, 33:].sum() > 1.3 * bent[:, :32].sum()
    assert straight[:, 33:].sum() == pytest.approx(straight[:, :32].sum(), rel=1e-3)


def test_dust_reddens_along_the_major_axis(perfect):
    options = DISK | EDGE_ON
    clean = perfect(**options)
    dusty = perfect(**options, odd=population.DUST_LANE, odd_strength=1.0) / clean
    g, r, i = dusty[:, 32, 32]
    assert g < r < i < 0.3
    assert r < dusty[1, 32, 45] < dusty[1, 20, 32]
    assert dusty[1, 20, 32] == pytest.approx(1)


def test_neighbours_keep_away_from_the_galaxy():
    across = jnp.linspace(-0.5, 0.5, 51)
    take = jax.jit(
        lambda key: light.neighbour_light(galaxy(), key, across[None, :], -across[:, None], 0.01)
    )
    lit = np.stack([take(jax.random.key(number)) for number in range(40)])[:, 1]
    assert (lit.max(axis=(1, 2)) > 0.1).mean() > 0.5
    for image in lit:
        y, x = np.unravel_index(image.argmax(), image.shape)
        assert image.max() < 1e-3 or np.hypot(x - 25, y - 25) > 0.14 * 50


# --- the camera ---


def test_light_is_gathered_into_pixels():
    """Of a point, in g, r, i: as much as there was, as wide as the seeing, moved by the air."""
    latents, field, fine, size = galaxy(), 0.25, 128, 32
    point = np.zeros((3, fine, fine), np.float32)
    point[:, 40, 70] = 1.0
    gather = jax.jit(camera._through_the_atmosphere, static_argnames="size")
    found = np.asarray(gather(latents, point, size=size, field=field), np.float64)
    flat = gather(latents, np.ones_like(point), size=size, field=field)
    np.testing.assert_allclose(flat, 1.0, rtol=1e-5)
    np.testing.assert_allclose(found.sum(axis=(1, 2)), (size / fine) ** 2, rtol=1e-3)
    pixels = (np.arange(size) + 0.5) / size * field
    x = (found.sum(axis=1) * pixels).sum(axis=1) / found.sum(axis=(1, 2))
    y = (found.sum(axis=2) * pixels).sum(axis=1) / found.sum(axis=(1, 2))
    sigma = np.sqrt((1.1 / 85.0 / 2.3548) ** 2 + (field / size) ** 2 / 12)
    spread = (found[1].sum(axis=0) * (pixels - x[1]) ** 2).sum() / found[1].sum()
    assert np.sqrt(spread) == pytest.approx(sigma, rel=0.02)
    np.testing.assert_allclose((x[1], y[1]), (70.5 / fine * field, 40.5 / fine * field), rtol=1e-3)
    # Blue one way, red about half as far the other.
    direction = 2 * 0.4 + 2.0
    shift = -np.asarray([[0.15], [-0.08]]) / 85.0 * [[np.cos(direction), np.sin(direction)]]
    moved = np.stack([x - x[1], y - y[1]], axis=1)[[0, 2]]
    np.testing.assert_allclose(moved, shift, atol=1e-5)


@pytest.mark.parametrize(("size", "field"), [(64, 1.0), (64, 0.3)])
def test_noise_is_the_skys(size, field):
    latents = galaxy()
    found = np.asarray(camera._noise(latents, jax.random.key(0), size, field))
    pixels = field / size * 85.0 / 0.396  # of the camera, in one of the picture
    for band, (noise, left) in enumerate(
        zip((0.055, 0.08, 0.095), (0.025, 0.04, 0.05), strict=True)
    ):
        level = noise / np.sqrt(1 + pixels**2)
        assert found[band].std() == pytest.approx(level, rel=0.15)
        assert found[band].mean() == pytest.approx(left, abs=0.15 * level)
    for first, second in ((found[1, 1:], found[1, :-1]), (found[1, :, 1:], found[1, :, :-1])):
        correlation = np.corrcoef(first.ravel(), second.ravel())[0, 1]
        assert (correlation > 0.5) == (field < 1)


def test_field_stars():
    """More of them in a larger view, none on the galaxy, as bright at any pixel size."""
    keys = jax.random.split(jax.random.key(0), 200)

    @functools.partial(jax.jit, static_argnums=0)
    def stars(size, view):
        latents = galaxy()._replace(view=view)
        return jax.vmap(lambda key: camera._field_stars(latents, key, size, 1.0))(keys)

    wide, narrow, coarse = (
        np.asarray(stars(size, view)) for size, view in ((64, 240.0), (64, 60.0), (32, 240.0))
    )
    # All 12 of them in a view of 16 square arcminutes, 3 on average in a view of 1.
    assert wide.mean() * 240**2 == pytest.approx(4 * narrow.mean() * 60**2, rel=0.1)
    assert wide[:, :, 31:33, 31:33].max() < 1e-3 * wide.max()
    fluxes = wide.sum(axis=(2, 3)) / 64**2, coarse.sum(axis=(2, 3)) / 32**2
    np.testing.assert_allclose(fluxes[0].mean(axis=0), fluxes[1].mean(axis=0), rtol=0.05)


def test_stretch_against_its_formula():
    light_ = np.random.default_rng(0).exponential(1.0, (3, 20, 20)) * np.geomspace(0.01, 50, 20)
    red, green, blue = light_[2] * 0.39, light_[1] * 0.43, light_[0] * 0.60
    total = 2.3 * (red + green + blue)
    shown = np.stack([red, green, blue], axis=-1) * (np.arcsinh(total) / total)[..., None]
    shown = shown / np.maximum(1, shown.max(axis=-1, keepdims=True))
    levels = np.asarray(camera.stretch(jnp.asarray(light_, jnp.float32)))
    assert levels.dtype == np.uint8
    np.testing.assert_allclose(levels, 255 * shown, atol=0.51)
    assert levels.max() == 255
    assert camera.stretch(-jnp.asarray(light_, jnp.float32)).max() == 0


@pytest.mark.parametrize(
    ("size", "field", "fine"),
    [(16, 1.0, 128), (51, 0.4, 153), (100, 1.0, 200), (128, 1.0, 128), (424, 1.0, 424)],
)
def test_any_size(size, field, fine, monkeypatch):
    drawn, centres = [], camera._centres
    monkeypatch.setattr(camera, "_centres", lambda *grid: drawn.append(grid) or centres(*grid))
    image = jax.eval_shape(lambda one: camera.render(one, size, field), galaxy())
    assert (image.shape, image.dtype) == ((size, size, 3), np.uint8)
    assert drawn[0] == (fine, field)  # at least 128 points a side, whole ones for each pixel


# --- pictures ---


def test_axis_ratio_and_angle_show_in_pixels(album):
    for ratio, angle in [(0.35, 0.2), (0.5, 1.0), (0.65, 1.9), (0.8, 2.8)]:
        measured, turned = shape_of(album[f"smooth, {ratio}"].mean(axis=2), 60)
        assert measured == pytest.approx(ratio, abs=0.08)
        assert apart(turned, angle, np.pi) < 0.15


def test_latents_show_in_pixels(album):
    plain, ring, red, faint, star = (
        album[name].astype(float) for name in ("plain", "face-on ring", "red", "faint", "star")
    )
    profiles = [
        [around(picture.mean(axis=2), radius).mean() for radius in np.linspace(0.04, 0.4, 19)]
        for picture in (plain, ring)
    ]
    assert np.diff(profiles[0]).max() < 4  # falls, but for noise
    assert np.diff(profiles[1]).max() > 8  # rises again
    assert red[..., 0].sum() / red[..., 2].sum() > 1.4 * plain[..., 0].sum() / plain[..., 2].sum()
    assert faint.mean() < 0.6 * plain.mean()
    assert star[30:34, 30:34].mean() > 200
    for arms in (1, 2, 3, 4):
        spiral = album[f"{arms} arms"].mean(axis=2)
        waves = sum(
            np.abs(np.fft.rfft(around(spiral, radius)))[1:7] for radius in (0.15, 0.18, 0.21)
        )
        assert waves.argmax() == arms - 1


def test_merger_has_two_nuclei_and_dust_lane_is_dark(album):
    merger, single = album["merger on the right"], album["level"]
    dusty, clean = album["dusty"], album["clean"]
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


# --- the cache ---


@pytest.fixture
def load_seven(tmp_path):
    return functools.partial(
        sky.load_sky, 7, tree=GZ2, seed=3, size=SIZE, field=0.5, cache=tmp_path / "sky"
    )


@pytest.fixture
def no_drawing(monkeypatch):
    def forbid():
        def draw_sky(*_):
            raise AssertionError("drawn again")

        monkeypatch.setattr(store, "draw_sky", draw_sky)

    return forbid


def test_second_load_reads_the_cache(load_seven, no_drawing, tmp_path):
    steps = []
    images, votes = load_seven(progress=lambda done, of: steps.append((done, of)))
    assert (images.shape, images[:].dtype, len(images)) == ((7, SIZE, SIZE, 3), np.uint8, 7)
    assert (votes.shape, votes.dtype) == ((7, 37), np.float32)
    np.testing.assert_array_equal(votes[:, question(1)].sum(axis=1), crowd.VOLUNTEERS)
    assert not images[0].flags.writeable
    assert steps == [(4, 7), (7, 7)]
    (name,) = {file.name.split(".images.")[0] for file in (tmp_path / "sky").glob("*.images.npy")}
    files = {file.name for file in (tmp_path / "sky").iterdir()}
    assert files == {f"{name}.images.npy", f"{name}.votes.npy"}
    drawn = list(store.draw_sky(store.Sky(GZ2, 7, 3, SIZE, 0.5)))
    np.testing.assert_array_equal(images[:], np.concatenate([chunk[0] for chunk in drawn]))
    np.testing.assert_array_equal(votes, np.concatenate([chunk[1] for chunk in drawn]))
    no_drawing()
    for first, second in zip((images, votes), load_seven(), strict=True):
        np.testing.assert_array_equal(first[:], second[:])


def test_images_go_to_other_processes_as_a_path(load_seven, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images, _ = load_seven(cache=Path("here"))
    sent = pickle.dumps(images)
    assert len(sent) < 500
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    received = pickle.loads(sent)
    assert (received.shape, len(received)) == (images.shape, 7)
    np.testing.assert_array_equal(received[2], images[2])
    np.testing.assert_array_equal(received[2:5], images[2:5])


def test_without_a_cache_nothing_is_kept(load_seven, tmp_path, monkeypatch):
    """As for a user without a home."""
    cached = load_seven()
    monkeypatch.chdir(tmp_path / "sky")
    before = sorted(tmp_path.rglob("*"))
    for first, second in zip(cached, load_seven(cache=None), strict=True):
        np.testing.assert_array_equal(first[:], second)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["images", "votes"])
@pytest.mark.parametrize(
    "damage", ["truncated", "empty", "text", "shape", "dtype", "archive", "half an archive"]
)
def test_damaged_files_are_drawn_anew(load_seven, tmp_path, kind, damage):
    before = [np.array(array[:]) for array in load_seven()]
    (file,) = (tmp_path / "sky").glob(f"*.{kind}.npy")
    whole = file.read_bytes()
    other = {"shape": np.load(file)[:-1], "dtype": np.load(file).astype(np.float64)}
    file.unlink()  # a new file, as a memory map of the old one may be open
    if damage in other:
        np.save(file, other[damage])
    elif damage == "archive":
        with file.open("wb") as stream:
            np.savez(stream, images=np.zeros(3))
    else:
        contents = {"truncated": whole[:-100], "empty": b"", "text": b"not a sky"}
        file.write_bytes(contents.get(damage, b"PK\x03\x04 and no more"))
    for first, second in zip(before, load_seven(), strict=True):
        np.testing.assert_array_equal(first, second[:])
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_one_line(load_seven, tmp_path, monkeypatch):
    (tmp_path / "sky").write_text("a file")
    with pytest.raises(UserError, match=r"^\S+/sky: expected a folder.*, found: .*exists[^\n]*$"):
        load_seven()
    (tmp_path / "sky").unlink()

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(UserError, match="disk is full"):
        load_seven()
    assert list((tmp_path / "sky").iterdir()) == []


def test_the_name_says_all_that_changes_the_content(monkeypatch):
    one = store.Sky(tree_of(*SMALL), 7, 3, SIZE, 0.5)
    moved = [*SMALL[:2], ("something-odd", "yes no", (4,)), SMALL[3]]
    swapped = [*SMALL[:2], ("something-odd", "no yes", (3, 4)), SMALL[3]]
    renamed = [*SMALL[:2], ("anything-odd", "yes no", (3, 4)), SMALL[3]]
    others = [
        dataclasses.replace(one, **change)
        for change in (
            {"galaxies": 8},
            {"seed": 4},
            {"size": SIZE + 1},
            {"field": 0.5000001},
            {"tree": GZ2},
            {"tree": tree_of(*moved)},
            {"tree": tree_of(*swapped)},
            {"tree": tree_of(*renamed)},
        )
    ]
    names = {one.name, *(other.name for other in others)}
    monkeypatch.setattr(store, "VERSION", 2)
    names.add(one.name)
    assert len(names) == 10
    assert "-v2-seed3-7x16px-field0.5-" in one.name


def test_another_field_or_tree_is_drawn_anew(load_seven, tmp_path, monkeypatch):
    images, votes = load_seven()
    wider, same = load_seven(field=1.0)
    assert not np.array_equal(images[:], wider[:])
    np.testing.assert_array_equal(votes, same)
    # Pictures do not depend on the tree, so these are quick to compile.
    monkeypatch.setattr(store, "render", lambda _, size, field: jnp.zeros((size, size, 3), "uint8"))
    _, odd = load_seven(tree=tree_of(("something-odd", "yes no", ())))
    assert odd.shape == (7, 2)
    np.testing.assert_array_equal(odd.sum(axis=1), 45)
    assert len(list((tmp_path / "sky").iterdir())) == 6


def test_the_sky_under_the_tree_of_decals(load_seven, no_drawing):
    images, votes = load_seven(tree=DR5)
    assert (votes.shape, votes.dtype) == ((7, 34), np.float32)
    np.testing.assert_array_equal(votes[:, DR5.questions[0].columns].sum(axis=1), 45)
    for first, second in zip((images, votes), load_seven(tree=DR5, cache=None), strict=True):
        np.testing.assert_array_equal(first[:], second)
    no_drawing()
    load_seven(tree=TREES["desi"])  # asks the same, so it is the same sky


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 0}, "size: expected a whole number at least 1, found 0"),
        ({"field": 0.0}, "field: expected a number above 0 and at most 1, found 0.0"),
        ({"field": 1.5}, "field: expected a number above 0 and at most 1, found 1.5"),
        ({"seed": -1}, "seed: expected a whole number"),
        ({"seed": 2**32}, "seed: expected a whole number"),
    ],
)
def test_impossible_skies(load_seven, wrong, message):
    with pytest.raises(UserError) as error:
        load_seven(**wrong)
    assert str(error.value).startswith(message)
    with pytest.raises(UserError, match=r"^galaxies: expected a whole number at least 1, found 0"):
        sky.load_sky(0, tree=GZ2, seed=0, size=SIZE, cache=None)


# --- the page ---


def test_page(tmp_path):
    from gzjax.sky.__main__ import main

    real = tmp_path / "real"
    real.mkdir()
    for number in range(3):
        image = Image.new("RGB", (60, 60), (0, 0, 200))
        image.paste((90, 0, 0), (12, 12, 48, 48))  # all that a field of 0.5 shows
        image.save(real / f"{number}.{'png' if number else 'JPG'}", quality=95)
    file = tmp_path / "new" / "sky.png"
    options = ["--galaxies", "6", "--columns", "4", "--size", str(SIZE)]
    options += ["--seed", "2", "--field", "0.5"]
    main(["--sheet", str(file), "--beside", str(real), *options])
    page = np.asarray(Image.open(file)).astype(int)
    step = SIZE + 2
    assert page.shape == (2 * step - 2 + 6 + SIZE, 4 * step - 2, 3)
    assert np.abs(page[-SIZE:, :SIZE] - (90, 0, 0)).max() < 20
    images = np.concatenate([c[0] for c in store.draw_sky(store.Sky(GZ2, 6, 2, SIZE, 0.5))])
    for number, image in enumerate(images):
        row, column = divmod(number, 4)
        tile = page[row * step :, column * step :][:SIZE, :SIZE]
        np.testing.assert_array_equal(tile, image)
    options[-1] = "1.0"
    main(["--sheet", str(file), *options])
    assert not np.array_equal(np.asarray(Image.open(file)), page[: 2 * step - 2])
    options[-1] = "0.5"
    main(["--sheet", str(file), "--captions", *options])
    captioned = np.asarray(Image.open(file))
    assert captioned.shape[0] == 2 * step - 2
    assert not np.array_equal(captioned, page[: 2 * step - 2])


def test_captions_are_of_fractions(monkeypatch):
    from gzjax.sky import __main__ as page

    def draw_sky(_):
        yield np.zeros((3, SIZE, SIZE, 3), np.uint8), np.full((3, 37), 15, np.float32)

    def readable(fractions, tree):
        np.testing.assert_allclose(fractions, 1 / 3, rtol=1e-6)
        return {"morphology": ["said"] * len(fractions)}

    monkeypatch.setattr(page, "draw_sky", draw_sky)
    monkeypatch.setattr(page, "readable", readable)
    assert len(page.draw_tiles(store.Sky(GZ2, 3, 2, SIZE, 0.5), captions=True)) == 3


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (["--size", "0"], "size: expected a whole number at least 1, found 0"),
        (["--columns", "0"], "columns: expected at least 1, found 0"),
        (["--tree", "gz3"], "expected the path"),
        (["--galaxies", "1", "--beside", "EMPTY"], "--beside EMPTY: expected images, found none"),
    ],
)
def test_wrong_options_of_the_page_are_one_line(option, says, tmp_path, monkeypatch, capsys):
    from gzjax.sky.__main__ import main

    (tmp_path / "EMPTY").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["--sheet", str(tmp_path / "sky.png"), *option])
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith(f"python -m gzjax.sky: error: {says}")
    )
