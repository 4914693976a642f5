import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from gzjax import augment, warp
from gzjax.augment import Augmentation
from gzjax.errors import UserError


@pytest.fixture(scope="module")
def images():
    """uint8[3, 24, 24, 3]: smooth enough to be resampled."""
    noise = np.random.default_rng(0).uniform(0, 255, (3, 24, 24, 3))
    return jnp.asarray(ndimage.gaussian_filter(noise, (0, 3, 3, 0)).astype(np.uint8))


def scaled(images):
    return np.asarray(images, np.float32) / 255


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("field", 0.0, "a number above 0 and at most 1"),
        ("field", 1.5, "a number above 0 and at most 1"),
        ("rotate", 181.0, "a number of degrees from 0 to 180"),
        ("rotate", -1.0, "a number of degrees from 0 to 180"),
        ("zoom", 0.99, "a number at least 1"),
        ("shift", 0.51, "a number from 0 to 0.5"),
        ("shift", -0.1, "a number from 0 to 0.5"),
        ("flip", 1, "True or False"),
        ("colour", -0.1, "a number at least 0"),
        ("erase", 1.01, "a number from 0 to 1"),
        ("erase", -0.01, "a number from 0 to 1"),
    ],
)
def test_augmentations_that_are_refused(name, value, expected):
    with pytest.raises(UserError, match=rf"^{name}: expected {expected}, found {value}$"):
        Augmentation(**{name: value})


def test_the_ends_of_what_is_allowed_and_the_defaults():
    Augmentation(rotate=180, shift=0.5, erase=1, field=1)
    assert Augmentation() == Augmentation(
        field=1.0, rotate=0.0, zoom=1.0, shift=0.0, flip=False, colour=0.0, erase=0.0
    )
    assert augment.TestViews() == (1.0, 1.0, 1, 0, "fastest")
    # As measured; mostly brightness, red before green before blue.
    assert augment.COLOUR_COMPONENTS == (
        (0.1115, 0.0933, 0.0784), (-0.0152, 0.0013, 0.0202), (0.0054, -0.0104, 0.0047),
    )  # fmt: skip
    assert (augment.ERASED_AREA, augment.ERASED_ASPECT) == ((0.02, 0.15), 3.0)


def quarter_turn(mirror=1.0):
    return jnp.asarray([[[0.0, -1.0, 0.0], [mirror, 0.0, 0.0]]] * 3)


def test_the_upright_view_of_the_whole_canvas_is_the_canvas(images):
    found = augment.upright_view(images, 1.0, 24)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, scaled(images), rtol=1e-6)
    warped = warp.resample(images, augment.upright_maps(3), 24)
    np.testing.assert_allclose(warped, found, atol=1e-6)


def test_the_upright_view_of_a_field_is_its_centre(images):
    np.testing.assert_allclose(
        augment.upright_view(images, 0.5, 12), scaled(images)[:, 6:18, 6:18], atol=1e-6
    )
    # The whole canvas in fewer pixels, each the mean of those that it covers.
    np.testing.assert_allclose(
        augment.upright_view(images, 1.0, 12),
        scaled(images).reshape(3, 12, 2, 12, 2, 3).mean((2, 4)),
        atol=1e-5,
    )
    # A field that has as many pixels as the canvas is magnified.
    enlarged = np.asarray(augment.upright_view(images, 0.5, 24))
    assert abs(enlarged - scaled(images)).max() > 0.05


def test_quarter_turns_and_mirrors_move_pixels_exactly(images):
    turned = warp.resample(images, quarter_turn(), 24)
    expected = np.rot90(scaled(images), 1, axes=(1, 2))
    np.testing.assert_allclose(turned, expected, atol=1e-5)
    mirrored = warp.resample(images, jnp.asarray([[[-1.0, 0, 0], [0, 1.0, 0]]] * 3), 24)
    np.testing.assert_allclose(mirrored, scaled(images)[:, :, ::-1], atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_warp_matches_scipy(images, seed):
    maps = augment.sample_maps(
        jax.random.key(seed), 3, Augmentation(0.7, rotate=180, zoom=1.3, shift=0.05, flip=True)
    )
    found = np.asarray(warp.resample(images, maps, 16))
    for number in range(3):
        linear, shift = np.asarray(maps[number, :, :2]), np.asarray(maps[number, :, 2])
        # scipy works in (row, column) pixels; ours in (x, y) half-sides from the centre.
        matrix = linear[::-1, ::-1] * 24 / 16
        centre = (24 - 1) / 2 + shift[::-1] * 12
        offset = centre - matrix @ np.array([7.5, 7.5])
        for channel in range(3):
            expected = ndimage.affine_transform(
                np.asarray(images[number, :, :, channel], float),
                matrix,
                offset,
                (16, 16),
                order=1,
                mode="nearest",
            )
            np.testing.assert_allclose(found[number, :, :, channel] * 255, expected, atol=2e-2)


def parts_of(maps):
    """The scale, rotation in degrees, shift and mirror that a map is made of."""
    maps = np.asarray(maps, np.float64)
    determinant = np.linalg.det(maps[:, :, :2])
    angle = np.rad2deg(np.arctan2(-maps[:, 0, 1], maps[:, 1, 1]))
    return np.sqrt(abs(determinant)), angle, maps[:, :, 2], determinant < 0


def test_maps_are_within_what_was_asked():
    augmentation = Augmentation(field=0.6, rotate=30, zoom=1.25, shift=0.1, flip=True)
    maps = augment.sample_maps(jax.random.key(0), 4000, augmentation)
    scale, angle, shift, mirrored = parts_of(maps)
    assert scale.min() / 0.6 == pytest.approx(1 / 1.25, rel=0.01)
    assert scale.max() / 0.6 == pytest.approx(1.25, rel=0.01)
    assert np.median(scale) / 0.6 == pytest.approx(1, abs=0.02)
    # Uniform in the angle, each shift and the logarithm of the scale: deviation = range / sqrt 3.
    assert np.log(scale / 0.6).std() == pytest.approx(np.log(1.25) / np.sqrt(3), rel=0.05)
    assert mirrored.mean() == pytest.approx(0.5, abs=0.03)
    assert angle.min() == pytest.approx(-30, abs=0.2)
    assert angle.max() == pytest.approx(30, abs=0.2)
    assert angle.std() == pytest.approx(30 / np.sqrt(3), rel=0.05)
    # A tenth of the view's side, whose half is 0.6 of the canvas's half.
    for direction in (0, 1):
        assert shift[:, direction].min() == pytest.approx(-0.12, rel=0.02)
        assert shift[:, direction].max() == pytest.approx(0.12, rel=0.02)
    # Each part is drawn independently of the others.
    drawn = np.stack([np.log(scale), angle, shift[:, 0], shift[:, 1], mirrored])
    assert abs(np.corrcoef(drawn) - np.eye(5)).max() < 0.06
    # Not from the same random numbers in another order of axes, either.
    assert abs(np.corrcoef(shift.ravel()[:4000], drawn[:2])[0, 1:]).max() < 0.06


@pytest.mark.parametrize(
    ("name", "value", "part"), [("rotate", 20.0, 1), ("zoom", 1.2, 0), ("shift", 0.1, 2),
                                ("flip", True, 3)]
)  # fmt: skip
def test_each_part_of_a_map_is_drawn_alone(name, value, part):
    maps = augment.sample_maps(jax.random.key(0), 200, Augmentation(**{name: value}))
    for number, (drawn, upright) in enumerate(zip(parts_of(maps), (1, 0, 0, False), strict=True)):
        if number == part:
            assert len(np.unique(drawn)) > 1
        else:
            np.testing.assert_allclose(drawn, upright, atol=1e-5)
    # A flip mirrors left and right.
    if name == "flip":
        assert set(np.sign(np.asarray(maps)[:, 0, 0])) == {1, -1}
        np.testing.assert_array_equal(np.asarray(maps)[:, 1, 1], 1)


@pytest.mark.parametrize("field", [1.0, 0.7])
def test_without_augmentation_the_random_view_is_the_upright_one(images, field):
    for size in (24, 16):
        np.testing.assert_array_equal(
            augment.random_views(jax.random.key(0), images, Augmentation(field=field), size),
            augment.upright_view(images, field, size),
        )


FULL = Augmentation(0.8, rotate=180, zoom=1.2, shift=0.05, flip=True, colour=0.2, erase=0.5)


def test_random_views_depend_on_the_key_alone_and_stay_in_range(images):
    show = jax.jit(lambda key: augment.random_views(key, images, FULL, 16))
    one, again, other = (np.asarray(show(jax.random.key(seed))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert abs(one - other).max() > 0.01
    assert one.dtype == np.float32
    assert one.shape == (3, 16, 16, 3)
    assert one.min() >= 0
    assert one.max() <= 1
    eager = augment.random_views(jax.random.key(1), images, FULL, 16)
    np.testing.assert_allclose(one, eager, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [{"field": 0.6}, {"rotate": 20}, {"zoom": 1.5}, {"shift": 0.2}, {"flip": False},
     {"colour": 0.0}, {"colour": 0.4}, {"erase": 0.0}, {"erase": 1.0}],
    ids=str,
)  # fmt: skip
def test_every_setting_changes_what_is_shown(images, change):
    views = [
        np.asarray(augment.random_views(jax.random.key(4), images, each, 12))
        for each in (FULL, dataclasses.replace(FULL, **change))
    ]
    assert abs(views[0] - views[1]).max() > 0.005


def test_a_random_view_is_warped_then_coloured_then_erased(images):
    map_key, colour_key, erase_key = jax.random.split(jax.random.key(7), 3)
    settings = dataclasses.replace(FULL, zoom=1.7, erase=1.0)
    # The largest view shows 1.36 times the canvas, so 3 points a pixel each way; 0.8 would have 2,
    # and 1.7 would have 4.
    shown = warp.resample(images, augment.sample_maps(map_key, 3, settings), 12, 3)
    coloured = augment.shift_colours(colour_key, shown, 0.2)
    expected = augment.erase_rectangles(erase_key, coloured, 1.0)
    assert abs(shown - coloured).max() > 0.01
    assert (expected == 0).any()
    np.testing.assert_allclose(
        augment.random_views(jax.random.key(7), images, settings, 12), expected, atol=1e-6
    )


def test_a_shrinking_view_is_antialiased():
    stripes = np.zeros((1, 96, 96, 3), np.uint8)
    stripes[:, :, ::2] = 255
    found = np.asarray(augment.upright_view(jnp.asarray(stripes), 1.0, 32))
    assert abs(found - 0.5).max() < 0.2


@pytest.mark.parametrize(
    ("widest", "size", "points"),
    [(1.0, 24, 1), (1.25, 24, 1), (1.26, 24, 2), (0.5, 24, 1), (1.0, 12, 2), (0.5, 12, 1),
     (1.13, 12, 3)],
)  # fmt: skip
def test_as_many_points_a_pixel_as_the_view_shrinks(images, widest, size, points):
    maps = augment.upright_maps(3, 0.9)
    np.testing.assert_array_equal(
        augment.mapped(images, maps, size, widest), warp.resample(images, maps, size, points)
    )


def test_beyond_the_edge_the_edge_goes_on(images):
    far = jnp.asarray([[[1.0, 0, 9.0], [0, 1.0, 0]]] * 3)
    found = warp.resample(images, far, 24)
    np.testing.assert_allclose(found, scaled(images)[:, :, -1:].repeat(24, 2), atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 8, 16, 24, 60])
def test_a_grid_is_of_different_views_and_begins_upright(count):
    maps = augment.grid_maps(count, field=0.7, zoom=1.44)
    assert maps.shape == (count, 2, 3)
    assert len(np.unique(maps.round(5), axis=0)) == count
    np.testing.assert_allclose(maps[0], [[0.7, 0, 0], [0, 0.7, 0]], atol=1e-7)
    determinants = np.linalg.det(maps[:, :, :2])
    if count % 2 == 0:
        assert (determinants < 0).sum() == count / 2
    scales = np.unique(np.sqrt(abs(determinants)).round(4))
    expected = [0.7 / 1.2, 0.7, 0.7 * 1.2] if count >= 24 else [0.7]
    np.testing.assert_allclose(scales, expected, atol=1e-3)
    np.testing.assert_array_equal(maps[:, :, 2], 0)


def test_sixty_views_are_ten_rotations_three_sizes_and_both_mirrors():
    maps = augment.grid_maps(60, zoom=1.2)
    angles = np.rad2deg(np.arctan2(-maps[:, 0, 1], maps[:, 1, 1])).round(2) % 360
    assert sorted(set(angles)) == pytest.approx(list(range(0, 360, 36)), abs=0.02)


@pytest.mark.parametrize(("count", "zoom"), [(60, 1.0), (18, 1.3), (26, 1.3), (27, 1.3), (7, 1.3)])
def test_other_grids_are_of_rotations_and_mirrors_alone(count, zoom):
    maps = augment.grid_maps(count, zoom=zoom)
    assert len(np.unique(maps.round(5), axis=0)) == count
    scale, angle, _, mirrored = parts_of(maps)
    np.testing.assert_allclose(scale, 1, atol=1e-6)
    assert mirrored.sum() == (count // 2 if count % 2 == 0 else 0)
    rotations = count // 2 if count % 2 == 0 else count
    found = np.unique((angle % 360).round(3) % 360)
    np.testing.assert_allclose(found, np.arange(rotations) * 360 / rotations, atol=2e-3)


def test_colours_shift_along_the_components_and_stay_in_range():
    images = jnp.full((4000, 2, 2, 3), 0.5)
    for function in (augment.shift_colours, jax.jit(augment.shift_colours, static_argnums=2)):
        found = np.asarray(function(jax.random.key(0), images, 0.3))
        shifts = found[:, 0, 0] - 0.5
        np.testing.assert_allclose(found, 0.5 + shifts[:, None, None].repeat(2, 1).repeat(2, 2))
        components = np.asarray(augment.COLOUR_COMPONENTS)
        # Principal components are orthogonal.
        products = components @ components.T
        np.testing.assert_allclose(products, np.diag(np.diag(products)), atol=2e-5)
        expected = 0.3**2 * components.T @ components
        np.testing.assert_allclose(np.cov(shifts.T), expected, atol=1e-4)
        np.testing.assert_allclose(shifts.mean(axis=0), 0, atol=2e-3)
    far = np.asarray(augment.shift_colours(jax.random.key(0), images, 50.0))
    assert far.min() == 0
    assert far.max() == 1


@pytest.mark.parametrize(("compiled", "probability"), [(False, 1.0), (True, 0.25)])
def test_rectangles_of_the_asked_area_are_blackened_in_the_asked_part(compiled, probability):
    images = jnp.ones((2000, 40, 80, 3))
    function = augment.erase_rectangles
    function = jax.jit(function, static_argnums=2) if compiled else function
    found = np.asarray(function(jax.random.key(0), images, probability))
    dark = (found == 0).all(axis=-1)
    assert set(np.unique(found)) == {0.0, 1.0}
    touched = dark.any(axis=(1, 2))
    assert touched.mean() == pytest.approx(probability, abs=0.03)
    height, width = dark.any(axis=2).sum(axis=1), dark.any(axis=1).sum(axis=1)
    # Each is a rectangle: as many pixels as its rows times its columns.
    np.testing.assert_array_equal(dark.sum(axis=(1, 2)), height * width)
    # Those that lie inside have the area and the aspect, both as parts of the view's sides, of a
    # log-uniform distribution.
    inside = touched & ~(dark[:, [0, -1]].any(axis=(1, 2)) | dark[:, :, [0, -1]].any(axis=(1, 2)))
    area = (height * width)[inside] / (40 * 80)
    smallest, largest = augment.ERASED_AREA
    assert smallest * 0.8 < area.min() < smallest * 1.3
    assert largest * 0.85 < area.max() < largest * 1.1
    aspect = (height / 40)[inside] / (width / 80)[inside]
    assert augment.ERASED_ASPECT * 0.85 < aspect.max() < augment.ERASED_ASPECT * 1.2
    assert 0.8 / augment.ERASED_ASPECT < aspect.min() < 1.2 / augment.ERASED_ASPECT
    assert abs(np.corrcoef(area, aspect)[0, 1]) < 0.15
    places = [
        dark[inside].any(axis=axis).argmax(axis=1) + side[inside] / 2
        for axis, side in ((2, height), (1, width))
    ]
    assert abs(np.corrcoef(*places)[0, 1]) < 0.15
    # Centres lie anywhere: every pixel is as often erased as its mirror images.
    share = dark[touched].mean(axis=0)
    np.testing.assert_allclose(share, share[::-1, ::-1], atol=0.08)
    assert share[20, 40] > share[0, 0] > 0


def test_oversampling_averages_points_within_a_pixel(images):
    fine = np.asarray(warp.resample(images, augment.upright_maps(3), 24))
    coarse = np.asarray(warp.resample(images, augment.upright_maps(3), 12, oversample=2))
    np.testing.assert_allclose(coarse, fine.reshape(3, 12, 2, 12, 2, 3).mean((2, 4)), atol=1e-5)
