"""FITS files made on the spot: read as colours, refused with a reason, and the same everywhere."""

import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image

import gzjax
from gzjax.data import catalogue, listing, packing, packs
from gzjax.data.framing import FitsSettings, Framing
from gzjax.data.images import ImageFiles, check_image, fault_text, read_image
from gzjax.data.paths import is_fits, name_of, path_of
from gzjax.errors import UserError
from gzjax.run import build, galaxies, pack
from gzjax.run import config as configs

io = pytest.importorskip("astropy.io.fits", reason="needs astropy, the extra `fits`")
from gzjax.data import fits  # noqa: E402

SIZE = 32
FRAMING = Framing(1.0, SIZE)


def galaxy(brightness=1.0, seed=0):
    """float32[SIZE, SIZE]: an off-centre galaxy above a noisy sky."""
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    light = 40 * brightness * np.exp(-np.hypot(x - 3, y + 6) / 4)
    return (light + np.random.default_rng(seed).normal(5, 0.5, light.shape)).astype(np.float32)


def save(path, *arrays, names=(), primary=True):
    """A file with these images, the first in the primary HDU or all in extensions."""
    hdus = [io.PrimaryHDU(arrays[0] if primary else None)]
    names = names or [None] * len(arrays)
    for array, name in zip(arrays[primary:], names[primary:], strict=True):
        hdus.append(io.ImageHDU(array, name=name))
    io.HDUList(hdus).writeto(path)
    return str(path)


def fault(file, settings=FitsSettings()):  # noqa: B008
    with pytest.raises(Exception) as raised:  # noqa: PT011
        read_image(file, FRAMING._replace(fits=settings))
    assert check_image(file, decode=True, fits=settings) == fault_text(raised.value)
    return fault_text(raised.value)


def test_one_band_is_stretched_between_percentiles_to_grey(tmp_path):
    band = galaxy()
    found = read_image(save(tmp_path / "a.fits", band), FRAMING)
    black = np.percentile(band, 1)
    white = np.percentile(band - black, 99.8)
    expected = np.arcsinh((band - black).clip(0) / white / 0.1) / np.arcsinh(10)
    assert found.shape == (SIZE, SIZE, 3)
    assert (found == found[..., :1]).all()
    np.testing.assert_allclose(found[::-1, :, 0], 255 * expected.clip(0, 1), atol=1.01)
    assert found.min() == 0
    assert found.max() == 255


def test_north_is_up(tmp_path):
    """The first row of a FITS file is the last of a picture."""
    file = save(tmp_path / "a.fits", galaxy())
    row, column = np.unravel_index(read_image(file, FRAMING)[..., 0].argmax(), (SIZE, SIZE))
    assert abs(row - (SIZE / 2 + 5)) < 2
    assert abs(column - (SIZE / 2 + 3)) < 2


def test_three_equal_bands_look_as_one_does(tmp_path):
    for softening in (0.02, 0.1, 0.9):
        framing = FRAMING._replace(fits=FitsSettings(softening=softening))
        one = read_image(save(tmp_path / f"one{softening}.fits", galaxy()), framing)
        cube = np.stack([galaxy()] * 3)
        three = read_image(save(tmp_path / f"three{softening}.fits", cube), framing)
        np.testing.assert_array_equal(one, three)


def test_three_bands_are_blue_green_red_unless_told(tmp_path):
    bands = [galaxy(brightness, seed) for seed, brightness in enumerate((0.3, 0.6, 1.0))]
    cube = read_image(save(tmp_path / "cube.fits", np.stack(bands)), FRAMING)
    assert np.all(np.diff(cube.astype(float).mean(axis=(0, 1))) < 0)
    names = ("", "G", "R")
    hdus = read_image(save(tmp_path / "hdus.fits", *bands, names=names), FRAMING)
    np.testing.assert_array_equal(hdus, cube)

    turned = FRAMING._replace(fits=FitsSettings(bands="0,1,2"))
    np.testing.assert_array_equal(read_image(tmp_path / "cube.fits", turned), cube[..., ::-1])
    single = FRAMING._replace(fits=FitsSettings(bands="r"))
    expected = read_image(save(tmp_path / "r.fits", bands[2]), FRAMING)
    np.testing.assert_array_equal(read_image(tmp_path / "hdus.fits", single), expected)
    assert "1 bands" in fault(tmp_path / "r.fits", FitsSettings(bands="0,1,2"))


def test_what_lies_beside_a_band_is_none(tmp_path):
    """Its errors, its weights, the point-spread function; where they are asked for, they are."""
    band, *others = (galaxy(seed=n) for n in range(4))
    expected = read_image(save(tmp_path / "alone.fits", band), FRAMING)
    file = save(tmp_path / "a.fits", band, *others[:2], names=("", "IVAR", "PSF"))
    np.testing.assert_array_equal(read_image(file, FRAMING), expected)
    psf = FRAMING._replace(fits=FitsSettings(bands="psf"))
    alone = read_image(save(tmp_path / "psf.fits", others[1]), FRAMING)
    np.testing.assert_array_equal(read_image(file, psf), alone)
    masked = save(tmp_path / "b.fits", band, *others, names=("", "R", "Z", "MASK"))
    three = read_image(save(tmp_path / "c.fits", band, *others[:2], names=("", "R", "Z")), FRAMING)
    np.testing.assert_array_equal(read_image(masked, FRAMING), three)


def test_another_band_than_the_one_asked_for_is_not_taken(tmp_path):
    file = save(tmp_path / "g.fits", galaxy(), names=("", "G")[1:], primary=False)
    wanted = FRAMING._replace(fits=FitsSettings(bands="g"))
    np.testing.assert_array_equal(read_image(file, wanted), read_image(file, FRAMING))
    for bands in ("r", "7"):
        expected = f"1 bands (G), expected {bands}"
        assert expected in fault(file, FitsSettings(bands=bands))


def test_what_gzip_packed_is_read_from_anywhere(tmp_path):
    file = save(tmp_path / "a.fits.gz", galaxy())
    expected = read_image(file, FRAMING)
    for same in (f"file://{file}", f"file://{file}[0]", Path(file).read_bytes()):
        np.testing.assert_array_equal(read_image(same, FRAMING), expected)
        assert check_image(same, decode=True) == ""


def test_the_ratios_of_bands_are_kept_where_it_is_bright(tmp_path):
    """Lupton et al. 2004: a bright centre keeps its colour, and is not white."""
    light = galaxy() - 5
    options = {"scale": "fixed", "low": 0.0, "high": 20.0, "softening": 0.05}
    cube = np.stack([0.25 * light, 0.5 * light, light])
    found = fits.colours(cube[::-1], FitsSettings(**options)).astype(float)
    bright = found[..., 0] > 100
    np.testing.assert_allclose(found[bright][:, 1] / found[bright][:, 0], 0.5, atol=0.02)
    np.testing.assert_allclose(found[bright][:, 2] / found[bright][:, 0], 0.25, atol=0.02)
    plain = fits.colours(cube[::-1], FitsSettings(**options | {"stretch": "linear"}))
    expected = (cube[::-1, ::-1].transpose(1, 2, 0) / 20).clip(0, 1) * 255
    np.testing.assert_allclose(plain, expected, atol=1.01)
    # Black is at `low`, and the other stretches are those of astropy.
    brighter = options | {"low": 7.0, "high": 27.0, "stretch": "linear"}
    np.testing.assert_array_equal(fits.colours(cube[::-1] + 7, FitsSettings(**brighter)), plain)
    for stretch, curve in (("sqrt", np.sqrt), ("log", lambda x: np.log1p(1000 * x) / np.log(1001))):
        found = fits.colours(cube[::-1], FitsSettings(**options | {"stretch": stretch}))
        np.testing.assert_allclose(found, 255 * curve(expected / 255), atol=1.01)


def test_each_band_has_its_own_sky():
    bands = np.stack([galaxy(seed=seed) for seed in range(3)])
    skies = np.float32([[[300]], [[0]], [[-40]]])
    before, after = (fits.colours(each, FitsSettings()) for each in (bands, bands + skies))
    assert np.abs(before.astype(int) - after).max() <= 1


@pytest.mark.parametrize("stretch", ["asinh", "linear"])
@pytest.mark.parametrize("bands", [1, 3])
def test_unknown_pixels_are_black_and_count_for_nothing(bands, stretch):
    whole = np.stack([galaxy(seed=n) for n in range(bands)])
    holed = whole.copy()
    holed[-1, 3:6, 20:24] = np.nan
    holed[0, 30, 2] = np.inf
    found, before = (
        fits.colours(each, FitsSettings(stretch=stretch))[::-1] for each in (holed, whole)
    )
    unknown = ~np.isfinite(holed).all(axis=0)
    assert (found[unknown] == 0).all()
    assert np.abs(found[~unknown].astype(int) - before[~unknown]).max() < 12


def test_compressed_files_and_axes_of_one_are_read_alike(tmp_path):
    band = galaxy()
    expected = read_image(save(tmp_path / "a.fits", band), FRAMING)
    save(tmp_path / "b.fits.gz", band)
    save(tmp_path / "c.FIT", band[None, None])
    save(tmp_path / "d.fits", band.astype(np.float64), primary=False)
    for name in ("b.fits.gz", "c.FIT", "d.fits"):
        np.testing.assert_array_equal(read_image(tmp_path / name, FRAMING), expected)
    tiled = io.CompImageHDU(band, compression_type="GZIP_2", quantize_level=0)
    io.HDUList([io.PrimaryHDU(), tiled]).writeto(tmp_path / "e.fits.fz")
    np.testing.assert_array_equal(read_image(tmp_path / "e.fits.fz", FRAMING), expected)
    encoded = (tmp_path / "a.fits").read_bytes()  # as in a Parquet file
    np.testing.assert_array_equal(read_image(encoded, FRAMING), expected)
    whole = np.round(100 * band).astype(np.int16)
    short = read_image(save(tmp_path / "f.fits", whole), FRAMING)
    np.testing.assert_allclose(short.astype(int), expected, atol=4)


def test_an_hdu_is_chosen_by_number_or_name(tmp_path):
    bands = [galaxy(seed=n) for n in range(4)]
    file = save(tmp_path / "many.fits", *bands, names=("", "x", "Y", "z"))
    alone = [
        read_image(save(tmp_path / f"{n}.fits", band), FRAMING) for n, band in enumerate(bands)
    ]
    for hdu, expected in (("0", 0), ("3", 3), ("X", 1), ("y", 2)):
        np.testing.assert_array_equal(read_image(f"{file}[{hdu}]", FRAMING), alone[expected])
    assert fault(f"{file}[7]") == "not usable: no HDU 7, found PRIMARY, X, Y, Z"
    assert fault(f"{file}[w]").startswith("not usable: no HDU w, found")
    expected = (
        "not usable: 4 bands (PRIMARY, X, Y, Z), expected 1 or 3; the option fits.bands choos"
    )
    assert fault(file).startswith(expected)
    assert check_image(file) == fault(file)
    assert "expected z,r,g" in fault(file, FitsSettings(bands="z,r,g"))
    science = save(tmp_path / "s.fits", *bands[:3], names=("SCI", "ERR", "DQ"), primary=False)
    np.testing.assert_array_equal(read_image(science, FRAMING), alone[0])


def test_faults_are_a_line_each(tmp_path):
    file = save(tmp_path / "a.fits", galaxy())
    whole = (tmp_path / "a.fits").read_bytes()
    (tmp_path / "cut.fits").write_bytes(whole[:4000])
    (tmp_path / "text.fits").write_text("no image")
    save(tmp_path / "small.fits", galaxy()[:9])
    save(tmp_path / "nan.fits", np.full((SIZE, SIZE), np.nan, np.float32))
    save(tmp_path / "blank.fits", np.ones((SIZE, SIZE), np.float32))
    save(tmp_path / "sizes.fits", galaxy(), galaxy()[:20], galaxy())
    save(tmp_path / "axes.fits", np.ones((2, 2, SIZE, SIZE), np.float32))
    io.HDUList([io.PrimaryHDU()]).writeto(tmp_path / "empty.fits")
    for name, expected in (
        ("cut", "truncated or damaged: "),
        ("text", "not readable as an image: "),
        ("small", "too small: 32 x 9 pixels"),
        ("nan", "not usable: no pixel has a value"),
        ("blank", "not usable: blank"),
        ("sizes", "not usable: its bands differ in size"),
        ("axes", "not usable: 4 axes"),
        ("empty", "not usable: no image in it"),
        ("gone", "there is no such file"),
    ):
        assert fault(tmp_path / f"{name}.fits").startswith(expected), name
    for name in ("text", "small", "sizes", "axes", "empty", "gone"):  # headers tell
        assert check_image(tmp_path / f"{name}.fits") == fault(tmp_path / f"{name}.fits")
    assert check_image(file) == check_image(file, decode=True) == ""


def test_a_drawn_galaxy_in_an_empty_sky_is_not_blank():
    band = np.zeros((1, 64, 64), np.float32)
    band[0, 30:32, 30:32] = [[1, 2], [3, 4]]
    assert np.unique(fits.colours(band, FitsSettings())).size > 3


def test_names_of_files_and_hdus():
    for file, path, name in (
        ("a/1000.fits", "a/1000.fits", "1000"),
        ("a/10.5.fits.gz", "a/10.5.fits.gz", "10.5"),
        ("a/c.fits.fz[NGC 1]", "a/c.fits.fz", "c[NGC 1]"),
        ("a/c.FIT[3]", "a/c.FIT", "c[3]"),
        ("a/c.jpg[3]", "a/c.jpg[3]", "c"),
        ("a/b.c.png", "a/b.c.png", "b.c"),
    ):
        assert (path_of(file), name_of(file)) == (path, name)
        assert is_fits(file) == (".f" in file.lower())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"bands": "1,2"}, "bands: expected auto, one band or three such as 2,1,0, found '1,2'"),
        ({"low": 5.0, "high": 5.0}, "high: expected more than low, 5, found 5"),
        ({"high": 101.0}, "high: expected a percentile from 0 to 100, found 101"),
        ({"stretch": "asin"}, "did you mean 'asinh'"),
        ({"softening": 0.0}, "softening: expected a number above 0 and at most 1, found 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, expected):
    with pytest.raises(UserError) as raised:
        FitsSettings(**options)
    assert expected in str(raised.value)
    FitsSettings(scale="fixed", low=-3.0, high=1000.0)


def sky(root, galaxies=tiny.GALAXIES):
    """The tiny world in FITS: every third galaxy is an HDU of one file; a column names them."""
    tiny.folder(root, galaxies)
    table = pd.read_csv(root / "votes.csv", dtype={"GalaxyID": str})
    files, several = [], []
    for number, name in enumerate(table["GalaxyID"]):
        with Image.open(root / "images" / f"{name}.png") as image:
            cube = np.asarray(image, np.float32).transpose(2, 0, 1)[::-1, ::-1] ** 1.5
        if number % 3:
            io.PrimaryHDU(cube).writeto(root / f"{name}.fits.gz")
            files.append(f"{name}.fits.gz")
        else:
            several.append(io.ImageHDU(cube, name=f"G{name}"))
            files.append(f"many.fits[{len(several) if number % 2 else f'G{name}'}]")
    io.HDUList([io.PrimaryHDU(), *several]).writeto(root / "many.fits")
    shutil.rmtree(root / "images")
    table.assign(file_loc=files).to_csv(root / "votes.csv", index=False)
    return root


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build.models, "build", lambda name, **options: tiny.network(**options))
        yield sky(tmp_path_factory.mktemp("world") / "galaxies")


def data_of(world, **options):
    typed = configs.typed(tiny.config(world, **options))
    tree = galaxies.load_tree(typed.data)
    return galaxies.build_data(typed, tree, None, True, gzjax.Report(loud=False))


@pytest.mark.parametrize(
    "options",
    [
        {"bands": "0,1,2"},
        {"stretch": "sqrt"},
        {"stretch": "log"},
        {"softening": 0.5},
        {"scale": "fixed", "high": 2000.0},
        {"low": 10.0},
        {"high": 90.0},
    ],
)
def test_every_option_changes_what_is_trained_on_and_what_is_predicted(world, options):
    options = {f"fits__{name}": value for name, value in options.items()}
    before, after = data_of(world), data_of(world, **options)
    assert all((before.images[row] != after.images[row]).any() for row in (0, 1, 5))
    typed = configs.typed(tiny.config(world, **options))
    model = build.build_model(typed, before.tree, None, None)
    assert model.framing == after.framing != before.framing


def test_training_packing_and_prediction_read_alike(world, tmp_path):
    options = {"fits__softening": 0.3, "fits__bands": "2,1,0"}  # as without, if not by name
    typed, data = configs.typed(tiny.config(world, **options)), data_of(world, **options)
    network = build.build_network(typed, data.tree, None)
    model = build.build_model(typed, data.tree, network, build.place(typed, training=False))
    model = model._replace(weights=network.init(jax.random.key(0)))
    assert len(data.ids) == tiny.GALAXIES
    assert data.framing == model.framing
    pack.pack(
        tiny.config(world, **options), tmp_path / "pack",
        cache=None, check_images=False, report=gzjax.Report(loud=False),
    )  # fmt: skip
    packed = packs.read(tmp_path / "pack", tree=data.tree, framing=data.framing)
    listed = listing.list_images(world / "votes.csv")
    assert listed.ids == list(data.ids)
    for row in range(0, tiny.GALAXIES, 5):
        np.testing.assert_array_equal(data.images[row], packed.images[row])
        np.testing.assert_array_equal(data.images[row], listed.framed(model.framing)[row])
    table = model.predict(world / "votes.csv")
    assert (table["fault"] == "").all()
    pd.testing.assert_frame_equal(table, model.predict(tmp_path / "pack"))
    other = data.framing._replace(fits=FitsSettings(bands="2,1,0"))
    with pytest.raises(UserError, match=r"^fits.softening: 0\.1, but .* was packed with 0\.3"):
        packs.read(tmp_path / "pack", tree=data.tree, framing=other)
    with pytest.raises(UserError, match=r"fits\.softening was 0\.3, now 0\.1"):
        packing.write(tmp_path / "pack", data._replace(framing=other))


def test_the_check_of_images_knows_which_bands_are_wanted(world, tmp_path):
    """Else cubes of four bands would be refused before training."""
    shutil.copytree(world, tmp_path / "world")
    for file in (tmp_path / "world").glob("*.fits*"):
        with io.open(file) as hdus:
            for hdu in hdus:
                if hdu.data is not None:
                    hdu.data = np.concatenate([hdu.data, hdu.data[:1]])
            hdus.writeto(tmp_path / file.name)
        shutil.move(tmp_path / file.name, file)
    with pytest.raises(UserError, match=r"48 of 48 galaxies would be skipped.* 4 bands"):
        data_of(tmp_path / "world")
    found = data_of(tmp_path / "world", fits__bands="2,1,0").images[0]
    np.testing.assert_array_equal(found, data_of(world).images[0])


def test_files_are_listed_by_folder_path_and_hdu(world):
    found = listing.list_images(world)
    assert len(found.ids) == 1 + 2 * tiny.GALAXIES // 3
    assert {"many", "1007"} <= {*found.ids}
    one = listing.list_images(str(world / "many.fits[2]"))
    assert one.ids == ["many[2]"]
    expected = read_image(world / "many.fits[2]", FRAMING)
    np.testing.assert_array_equal(one.framed(FRAMING)[0], expected)
    assert ImageFiles(one.files, FRAMING).paths == [str(world / "many.fits[2]")]


def test_without_astropy_a_line_says_what_to_install(world, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "astropy", None)
        for act in (lambda: listing.list_images(world), lambda: data_of(world)):
            with pytest.raises(UserError, match=r"fits\S*: reading FITS needs .* 'gzjax\[fits\]'"):
                act()
        monkeypatch.delitem(sys.modules, "gzjax.data.fits")
        monkeypatch.delattr(gzjax.data, "fits")
        for name in [name for name in sys.modules if name.startswith("astropy.")]:
            patch.delitem(sys.modules, name)
        encoded = (world / "many.fits").read_bytes()
        assert check_image(encoded).startswith("reading FITS needs the extra fits")


def test_positions_without_images_are_told_how_to_get_some(world, tmp_path):
    table = pd.read_csv(world / "votes.csv").drop(columns="file_loc").assign(RA=1.5, dec=2.5)
    table.to_csv(tmp_path / "votes.csv", index=False)
    tree = gzjax.load_tree(str(world / "toy.toml"))

    def read():
        return catalogue.read_catalogue(tmp_path, tree=tree, table="votes.csv", images="images")

    service = r"legacysurvey\.org/viewer/jpeg-cutout\?ra="
    said = rf"votes\.csv: expected .*positions in RA, dec .*{service}"
    with pytest.raises(UserError, match=said) as raised:
        read()
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match=said):
        listing.list_images(tmp_path / "votes.csv")
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="would be skipped"):
        read()
    shutil.rmtree(tmp_path / "images")
    table.drop(columns="RA").to_csv(tmp_path / "votes.csv", index=False)
    with pytest.raises(UserError, match="no such folder; expected images named by GalaxyID"):
        read()
