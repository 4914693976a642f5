import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from gzjax import augment
from gzjax.augment import Views


@pytest.fixture(scope="module")
def images():
    """uint8[3, 24, 24, 3]: smooth enough to be resampled."""
    noise = np.random.default_rng(0).uniform(0, 255, (3, 24, 24, 3))
    return ndimage.gaussian_filter(noise, (0, 3, 3, 0)).astype(np.uint8)


def quarter_turn(mirror=1.0):
    return jnp.asarray([[[0.0, -1.0, 0.0], [mirror, 0.0, 0.0]]] * 3)


def test_the_upright_view_of_the_whole_canvas_is_the_canvas(images):
    found = augment.view(images, Views(), 24)
    np.testing.assert_array_equal(found, images.astype(np.float32) / 255)
    warped = augment.warp(images, augment.upright_maps(3), 24)
    np.testing.assert_allclose(warped, found, atol=1e-6)


def test_quarter_turns_and_mirrors_move_pixels_exactly(images):
    turned = augment.warp(images, quarter_turn(), 24)
    expected = np.rot90(images, 1, axes=(1, 2)) / 255
    np.testing.assert_allclose(turned, expected, atol=1e-5)
    mirrored = augment.warp(images, jnp.asarray([[[-1.0, 0, 0], [0, 1.0, 0]]] * 3), 24)
    np.testing.assert_allclose(mirrored, images[:, :, ::-1] / 255, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_warp_matches_scipy(images, seed):
    maps = augment.sample_maps(
        jax.random.key(seed), 3, Views(field=0.7, rotate=180, zoom=1.3, shift=0.05, flip=True)
    )
    found = np.asarray(augment.warp(images, maps, 16))
    for number in range(3):
        linear, shift = np.asarray(maps[number, :, :2]), np.asarray(maps[number, :, 2])
        # scipy works in (row, column) pixels; ours in (x, y) half-sides from the centre.
        matrix = linear[::-1, ::-1] * 24 / 16
        centre = (24 - 1) / 2 + shift[::-1] * 12
        offset = centre - matrix @ np.array([7.5, 7.5])
        for channel in range(3):
            expected = ndimage.affine_transform(
                images[number, :, :, channel].astype(float),
                matrix,
                offset,
                (16, 16),
                order=1,
                mode="nearest",
            )
            np.testing.assert_allclose(found[number, :, :, channel] * 255, expected, atol=2e-2)


def test_maps_are_within_what_was_asked(images):
    views = Views(field=0.6, rotate=30, zoom=1.25, shift=0.1, flip=True)
    maps = np.asarray(augment.sample_maps(jax.random.key(0), 4000, views))
    determinant = np.linalg.det(maps[:, :, :2])
    scale = np.sqrt(abs(determinant)) / 0.6
    assert scale.min() == pytest.approx(1 / 1.25, rel=0.01)
    assert scale.max() == pytest.approx(1.25, rel=0.01)
    assert np.median(scale) == pytest.approx(1, abs=0.02)
    assert np.mean(determinant < 0) == pytest.approx(0.5, abs=0.03)
    angle = np.rad2deg(np.arctan2(-maps[:, 0, 1], maps[:, 1, 1]))
    assert abs(angle).max() == pytest.approx(30, abs=0.2)
    assert abs(maps[:, :, 2]).max() == pytest.approx(0.12, rel=0.02)


def test_no_chance_means_no_chance(images):
    np.testing.assert_array_equal(
        augment.view(images, Views(), 24, jax.random.key(0)), augment.view(images, Views(), 24)
    )


def test_views_depend_on_the_key_alone_and_stay_in_range(images):
    views = Views(field=0.8, rotate=180, zoom=1.2, shift=0.05, flip=True)
    show = jax.jit(lambda key: augment.view(images, views, 16, key))
    one, again, other = (np.asarray(show(jax.random.key(seed))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert abs(one - other).max() > 0.01
    assert one.dtype == np.float32
    assert one.shape == (3, 16, 16, 3)
    assert one.min() >= 0
    assert one.max() <= 1
    eager = augment.view(images, views, 16, jax.random.key(1))
    np.testing.assert_allclose(one, eager, atol=1e-5)


def test_a_shrinking_view_is_antialiased():
    stripes = np.zeros((1, 96, 96, 3), np.uint8)
    stripes[:, :, ::2] = 255
    found = np.asarray(augment.view(stripes, Views(), 32))
    assert abs(found - 0.5).max() < 0.2


def test_beyond_the_edge_the_edge_goes_on(images):
    far = jnp.asarray([[[1.0, 0, 9.0], [0, 1.0, 0]]] * 3)
    found = augment.warp(images, far, 24)
    np.testing.assert_allclose(found, (images[:, :, -1:] / 255).repeat(24, 2), atol=1e-5)


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


def test_sixty_views_are_ten_turns_three_sizes_and_both_mirrors():
    maps = augment.grid_maps(60, zoom=1.2)
    angles = np.rad2deg(np.arctan2(-maps[:, 0, 1], maps[:, 1, 1])).round(2) % 360
    assert sorted(set(angles)) == pytest.approx(list(range(0, 360, 36)), abs=0.02)


def test_without_a_zoom_all_views_are_turns():
    assert len(np.unique(augment.grid_maps(60).round(5), axis=0)) == 60


def test_colours_shift_along_the_components_and_stay_in_range():
    images = np.full((4000, 2, 2, 3), 0.5, np.float32)
    for function in (augment.shift_colours, jax.jit(augment.shift_colours, static_argnums=2)):
        found = np.asarray(function(jax.random.key(0), images, 0.3))
        shifts = found[:, 0, 0] - 0.5
        np.testing.assert_allclose(found, 0.5 + shifts[:, None, None].repeat(2, 1).repeat(2, 2))
        components = np.asarray(augment.COLOUR_COMPONENTS)
        expected = 0.3**2 * components.T @ components
        np.testing.assert_allclose(np.cov(shifts.T), expected, atol=1e-4)
    far = np.asarray(augment.shift_colours(jax.random.key(0), images, 50.0))
    assert far.min() == 0
    assert far.max() == 1


def test_rectangles_of_the_asked_area_are_blackened_in_the_asked_part():
    images = np.ones((2000, 40, 40, 3), np.float32)
    for function in (augment.erase_rectangles, jax.jit(augment.erase_rectangles)):
        found = np.asarray(function(jax.random.key(0), images, 0.25))
        dark = (found == 0).all(axis=-1)
        assert set(np.unique(found)) == {0.0, 1.0}
        touched = dark.any(axis=(1, 2))
        assert touched.mean() == pytest.approx(0.25, abs=0.03)
        # Parts of some rectangles lie outside, so areas are bounded from above alone.
        assert dark.mean(axis=(1, 2)).max() <= augment.ERASED_AREA[1] * 1.1
        # Each is a rectangle: as many pixels as its rows times its columns.
        area = dark.any(axis=2).sum(axis=1) * dark.any(axis=1).sum(axis=1)
        np.testing.assert_array_equal(dark.sum(axis=(1, 2)), area)


def test_oversampling_averages_points_within_a_pixel(images):
    fine = np.asarray(augment.warp(images, augment.upright_maps(3), 24))
    coarse = np.asarray(augment.warp(images, augment.upright_maps(3), 12, oversample=2))
    np.testing.assert_allclose(coarse, fine.reshape(3, 12, 2, 12, 2, 3).mean((2, 4)), atol=1e-5)
