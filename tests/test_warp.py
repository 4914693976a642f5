import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from gzjax import augment, warp

SIZE = 14


def smooth(canvas):
    """uint8[3, canvas, canvas, 3], of a fine enough canvas to be resampled in any way."""
    noise = np.random.default_rng(0).uniform(0, 255, (3, canvas, canvas, 3))
    smoothed = ndimage.gaussian_filter(noise, (0, 4, 4, 0))
    smoothed -= smoothed.min()
    return jnp.asarray((255 / smoothed.max() * smoothed).astype(np.uint8))


IMAGES = smooth(40)


def map_of(angle, scale=1.0, mirror=1.0, x=0.0, y=0.0):
    cosine, sine = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
    return jnp.asarray([[[mirror * cosine, -sine, x], [mirror * sine, cosine, y]]] * 3)


@jax.jit
def both(maps):
    return warp.by_gathers(IMAGES, maps, SIZE, 2), warp.by_shears(IMAGES, maps, SIZE, 2)


# The view's corners, shift included, stay on the canvas, whose edge is repeated in other ways.
@settings(max_examples=40, deadline=None)
@given(
    angle=st.one_of(st.floats(-360, 360), st.sampled_from([-135, -90, -45, 0, 45, 90, 135, 180])),
    scale=st.floats(0.35, 0.6),
    mirror=st.sampled_from([1.0, -1.0]),
    x=st.floats(-0.14, 0.14),
    y=st.floats(-0.14, 0.14),
)
def test_shears_show_what_gathers_show(angle, scale, mirror, x, y):
    gathered, sheared = both(map_of(angle, scale, mirror, x, y))
    # Of images whose neighbouring pixels differ by up to 30 grey levels.
    np.testing.assert_allclose(sheared, gathered, atol=4 / 255)
    assert np.sqrt(np.mean((sheared - gathered) ** 2)) < 1 / 255


def test_every_galaxy_has_its_own_map():
    maps = jnp.concatenate([map_of(30)[:1], map_of(100, 0.5)[:1], map_of(-80, 0.4, -1.0)[:1]])
    gathered, sheared = both(maps)
    inside = np.hypot(*(np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2)) < SIZE / 2 - 1
    np.testing.assert_allclose(sheared[:, inside], gathered[:, inside], atol=4 / 255)


@pytest.mark.parametrize(("size", "oversample"), [(20, 2), (41, 1)])
def test_without_a_rotation_they_are_the_same_numbers(size, oversample):
    how = [
        jax.jit(function, static_argnums=(2, 3)) for function in (warp.by_shears, warp.by_gathers)
    ]
    for one in (map_of(0), map_of(180, 0.7, -1.0, 0.1, -0.2), map_of(90, 0.9, -1.0, 0.05, 0.0)):
        sheared, gathered = (function(IMAGES, one, size, oversample) for function in how)
        np.testing.assert_allclose(sheared, gathered, atol=2e-5)


def test_the_galaxy_stays_as_sharp():
    """Of white noise, which no interpolation keeps as it is, about as much contrast is left."""
    noise = np.random.default_rng(1).integers(0, 255, (3, 64, 64, 3), np.uint8)
    for angle in (10, 45):
        each = [
            np.asarray(jax.jit(how, static_argnums=2)(noise, map_of(angle, 0.5), 64)).std()
            for how in (warp.by_gathers, warp.by_shears)
        ]
        assert 0.85 < each[1] / each[0] < 1.15


def test_a_tpu_has_no_gather_and_other_platforms_no_shear():
    def view(images, key):
        maps = augment.sample_maps(key, 3, augment.Augmentation(rotate=180, zoom=1.2))
        return warp.resample(images, maps, SIZE)

    traced = jax.jit(view).trace(IMAGES, jax.random.key(0))
    programs = {
        name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda", "tpu")
    }
    gathers = {name: "stablehlo.gather" in text for name, text in programs.items()}
    assert gathers == {"cpu": True, "cuda": True, "tpu": False}
    products = {name: "stablehlo.floor" in text for name, text in programs.items()}
    assert all(products.values())
    assert "stablehlo.dot_general" in programs["tpu"]
    assert programs["cpu"].count("stablehlo.select") < programs["tpu"].count("stablehlo.select")


def test_here_views_are_gathered():
    one = map_of(33, 0.8, -1.0, 0.1, 0.2)
    found = jax.jit(warp.resample, static_argnums=(2, 3))(IMAGES, one, SIZE, 2)
    np.testing.assert_allclose(found, both(one)[0], atol=1e-6)


def test_gathers_are_for_all_platforms_if_asked_for():
    one = map_of(20)
    found = warp.resample(IMAGES, one, SIZE, 2, "gathers")
    np.testing.assert_allclose(found, both(one)[0], atol=1e-6)
    traced = jax.jit(lambda *some: warp.resample(*some, SIZE, 2, "gathers")).trace(IMAGES, one)
    assert "stablehlo.gather" in traced.lower(lowering_platforms=("tpu",)).as_text()
    with pytest.raises(ValueError, match=r"^method 'shears': expected one of fastest, gathers"):
        warp.resample(IMAGES, one, SIZE, 2, "shears")
