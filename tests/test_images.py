"""One image: what is read of it to the last bit, and what is refused for which reason."""

import io
import os
import zlib

import numpy as np
import pytest
from PIL import Image

from gzjax.data import images, paths
from gzjax.data.framing import Framing
from gzjax.data.images import ImageArrays, ImageFiles, check_image, read_image
from gzjax.errors import UserError


def save(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return str(path)


def noise(*shape):
    return np.random.default_rng(len(shape)).integers(0, 256, shape, np.uint8)


def galaxy(size):
    """uint8[size, size, 3]: a tilted disk beside a bright edge, with noise."""
    y, x = np.mgrid[:size, :size] - size / 2
    light = 230 * np.exp(-np.hypot((x + 0.5 * y) / 40, (y + 9) / 20)) + 20 * (x > 0)
    light += np.random.default_rng(0).normal(0, 3, light.shape)
    return np.clip(light[..., None] * [1.0, 0.8, 0.6], 0, 255).astype(np.uint8)


def test_the_framing_keeps_all_unless_told():
    assert Framing()[:2] == (1.0, 128)
    options = Framing(0.7, 96).options
    assert (options.pop("crop"), options.pop("canvas")) == (0.7, 96)
    assert all(name.startswith("fits.") for name in options)


@pytest.mark.parametrize("shape", [(100, 130), (130, 100), (40, 41)])
@pytest.mark.parametrize(("crop", "canvas"), [(0.5, 10), (0.77, 33), (1.0, 64)])
def test_the_central_square_of_the_shorter_side_is_rescaled(tmp_path, shape, crop, canvas):
    pixels = noise(*shape, 3)
    found = read_image(save(tmp_path / "a.png", pixels), Framing(crop, canvas))
    side = crop * min(shape)
    box = tuple((length - side) / 2 for length in shape[::-1])
    expected = Image.fromarray(pixels).resize(
        (canvas, canvas),
        Image.Resampling.BICUBIC,
        box=(*box, *(start + side for start in box)),
    )
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.asarray(expected))


def test_shrinking_is_antialiased(tmp_path):
    stripes = np.zeros((424, 424, 3), np.uint8)
    stripes[:, ::2] = 255
    found = read_image(save(tmp_path / "stripes.png", stripes), Framing(1.0, 64))
    assert abs(found.astype(float) - 127.5).max() < 12


# The part of its size that a JPEG of 424 pixels is decoded at: the least that suffices.
@pytest.mark.parametrize(
    ("crop", "canvas", "part"), [(0.5, 213, 1), (0.5, 100, 2), (1.0, 100, 4), (1.0, 53, 8)]
)
def test_a_large_jpeg_is_decoded_at_a_part_of_its_size(tmp_path, crop, canvas, part):
    file = save(tmp_path / "a.jpg", galaxy(424), quality=90)
    with Image.open(file) as image:
        image.draft(None, (424 // part, 424 // part))
        decoded = image.convert("RGB")
    assert decoded.size == (424 // part, 424 // part)
    side = crop * 424 / part
    start = (424 / part - side) / 2
    expected = decoded.resize(
        (canvas, canvas), Image.Resampling.BICUBIC, box=(start, start, start + side, start + side)
    )
    found = read_image(file, Framing(crop, canvas))
    np.testing.assert_array_equal(found, np.asarray(expected))


@pytest.mark.parametrize("size", [424, 425, 431])
@pytest.mark.parametrize(("crop", "canvas"), [(0.7, 128), (1.0, 64), (0.5, 27)])
def test_a_jpeg_decoded_at_a_part_of_its_size_is_the_same_galaxy(tmp_path, size, crop, canvas):
    part = save(tmp_path / "a.jpg", galaxy(size), quality=90)
    with Image.open(part) as decoded:
        decoded.save(tmp_path / "a.png")
    framing = Framing(crop, canvas)
    difference = read_image(tmp_path / "a.png", framing) - read_image(part, framing).astype(float)
    assert 0 < np.abs(difference).mean() < 1


# A mid-grey of every mode that Pillow can write, and what it is in eight bits.
@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("RGB", (90, 60, 30), (90, 60, 30)),
        ("L", 90, (90, 90, 90)),
        ("1", 1, (255, 255, 255)),
        ("P", (90, 60, 30), (90, 60, 30)),
        ("CMYK", (165, 195, 225, 0), (90, 60, 30)),
        ("YCbCr", (90, 128, 128), (90, 90, 90)),
        ("LA", (90, 255), (90, 90, 90)),
        ("LA", (90, 0), (0, 0, 0)),
        ("RGBA", (90, 60, 30, 255), (90, 60, 30)),
        ("RGBA", (90, 60, 30, 51), (18, 12, 6)),
        ("RGBA", (90, 60, 30, 0), (0, 0, 0)),
        ("I;16", 90 * 257, (90, 90, 90)),
        ("I;16B", 65535, (255, 255, 255)),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, value, expected):
    file = tmp_path / "a.tif"
    palette = mode == "P"
    image = Image.new("RGB" if palette else mode, (32, 24), value)
    (image.quantize(2) if palette else image).save(file)
    found = read_image(file, Framing(1.0, 16))
    np.testing.assert_array_equal(found, np.broadcast_to(np.uint8(expected), (16, 16, 3)))
    assert check_image(file, decode=True) == ""


@pytest.mark.parametrize("suffix", ["png", "pgm"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    ramp = np.linspace(0, 65535, 32).astype(np.uint16)
    file = save(tmp_path / f"a.{suffix}", np.tile(ramp, (32, 1)))
    found = read_image(file, Framing(1.0, 32))
    np.testing.assert_array_equal(found[5, :, 1], np.rint(ramp / 65535 * 255))


def test_transparent_parts_are_black_sky(tmp_path):
    pixels = np.full((32, 32, 4), 200, np.uint8)
    pixels[:, 16:, 3] = 0
    pixels[:, :16, 3] = 255
    save(tmp_path / "alpha.png", pixels)
    two = Image.fromarray(np.uint8([[1] * 16 + [0] * 16] * 32)).convert("P")
    two.putpalette([255, 255, 255, 200, 200, 200])
    two.save(tmp_path / "palette.png", transparency=0)
    for name in ("alpha.png", "palette.png"):
        found = read_image(tmp_path / name, Framing(1.0, 32))
        np.testing.assert_array_equal(found[:, :16], 200)
        np.testing.assert_array_equal(found[:, 16:], 0)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp", "gif", "ppm"])
def test_every_format_is_read_whatever_its_name(tmp_path, suffix):
    named = tmp_path / f"a.{suffix}"
    Image.new("RGB", (32, 32), (0, 255, 0)).save(named)
    named.rename(tmp_path / "b.jpg")
    found = read_image(tmp_path / "b.jpg", Framing(1.0, 16))
    np.testing.assert_allclose(found, np.broadcast_to([0, 255, 0], (16, 16, 3)), atol=3)


@pytest.mark.parametrize("suffix", ["eps", "avif", "ico"])
def test_other_formats_are_not_even_tried(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("subprocess.check_call", None)  # Ghostscript, of an EPS
    Image.new("RGB", (32, 32), (0, 255, 0)).save(tmp_path / f"a.{suffix}")
    (tmp_path / f"a.{suffix}").rename(tmp_path / "a.jpg")
    assert check_image(tmp_path / "a.jpg", decode=True) == (
        "not readable as an image: expected one of JPEG, PNG, TIFF, WEBP, BMP, GIF, PPM"
    )


@pytest.mark.parametrize("size", [(16, 16), (17, 500), (500, 16), (1200, 900)])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("crop", [0.01, 0.7, 1.0])
def test_images_of_any_size_from_16_pixels_on_are_read(tmp_path, size, suffix, crop):
    file = tmp_path / f"a.{suffix}"
    Image.new("RGB", size, (90, 90, 90)).save(file)
    found = read_image(file, Framing(crop, 16))
    np.testing.assert_allclose(found, np.full((16, 16, 3), 90), atol=1)
    assert check_image(file) == ""


def jpeg(size=64, **options):
    stream = io.BytesIO()
    Image.fromarray(galaxy(size)).save(stream, "JPEG", quality=90, **options)
    return stream.getvalue()


def png(size=64):
    stream = io.BytesIO()
    Image.fromarray(noise(size, size, 3)).save(stream, "PNG")
    return stream.getvalue()


def tiff(dtype):
    stream = io.BytesIO()
    Image.fromarray(np.zeros((32, 32), dtype)).save(stream, "TIFF")
    return stream.getvalue()


def small(width, height):
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, "PNG")
    return stream.getvalue()


def bomb():
    """A PNG whose header announces 10^10 pixels."""
    stream = io.BytesIO()
    Image.new("1", (16, 16)).save(stream, "PNG")
    content = bytearray(stream.getvalue())
    content[16:24] = (100_000).to_bytes(4) * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    return bytes(content)


FAULTS = {
    "nothing": (b"", "not readable as an image: expected one of JPEG, "),
    "html": (b"<html>404</html>", "not readable as an image: expected one of JPEG, "),
    "1 x 1": (small(1, 1), "too small: 1 x 1 pixels, expected 16 a side or more"),
    "1 x 400": (small(1, 400), "too small: 1 x 400 pixels, "),
    "400 x 15": (small(400, 15), "too small: 400 x 15 pixels, "),
    "floats": (tiff(np.float32), "not usable: its pixels are floating-point numbers (mode F), exp"),
    "integers": (tiff(np.int32), "not usable: its pixels are 32-bit integers (mode I), expected c"),
    "no end": (jpeg()[:-2], "truncated: no end-of-image marker"),
    "half a jpeg": (jpeg()[:800], "truncated: no end-of-image marker"),
    "more behind it": (jpeg() + bytes(1024), "truncated: no end-of-image marker"),
    "a bomb": (bomb(), "not readable as an image: Image size (10000000000 pixels) exceeds"),
}


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("kind", FAULTS)
def test_training_and_prediction_refuse_the_same_for_the_same_reason(tmp_path, kind, decode):
    content, reason = FAULTS[kind]
    file = tmp_path / "a.jpg"
    file.write_bytes(content)
    fault = check_image(file, decode)
    assert fault.startswith(reason)
    with pytest.raises(Exception) as raised:  # noqa: PT011
        read_image(file, Framing(0.5, 32))
    assert images.fault_text(raised.value) == fault


def test_a_marker_in_the_last_kilobyte_is_enough(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg() + bytes(1022))
    assert check_image(tmp_path / "a.jpg", decode=True) == ""


def test_only_decoding_finds_a_damaged_middle(tmp_path):
    content = png()
    half = content[: len(content) // 2]
    (tmp_path / "a.png").write_bytes(half)
    assert check_image(tmp_path / "a.png") == ""
    assert check_image(tmp_path / "a.png", decode=True).startswith("not readable as an image: ")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged tags
def test_whatever_decoding_says_reading_says_too(tmp_path):
    """Files damaged at random: the answers agree, and each fault is one line of ASCII."""
    generator = np.random.default_rng(0)
    wrong = 0
    for original in (jpeg(), jpeg(progressive=True), png(20), tiff(np.uint8)):
        for _ in range(40):
            content = bytearray(original)
            for place in generator.integers(0, min(len(content), 700), 6):
                content[place] = generator.integers(256)
            (tmp_path / "a").write_bytes(content)
            header, whole = (check_image(tmp_path / "a", decode) for decode in (False, True))
            try:
                read_image(tmp_path / "a", Framing(0.7, 20))
                found = ""
            except Exception as error:
                found = images.fault_text(error)
            assert found == whole
            assert header in ("", whole)
            assert whole.isascii()
            assert len(whole) <= 200
            assert whole == "" or whole.isprintable()
            wrong += bool(whole)
    assert wrong > 20


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (images.Unusable("too small: 1 x 1"), "too small: 1 x 1"),
        (ValueError("two\n lines\x00 of\x1b it"), "not readable as an image: two lines of it"),
        (ValueError("a caf\xe9"), "not readable as an image: a caf\\xe9"),
        (MemoryError(), "not readable as an image: MemoryError"),
        (RuntimeError("x" * 500), "not readable as an image: " + "x" * 174),
        (OSError("image file is truncated"), "not readable as an image: image file is truncated"),
        (OSError(5, "Input/output error", "/a/b"), "cannot be opened: Input/output error"),
    ],
)
def test_a_fault_is_one_line_of_ascii(error, text):
    assert images.fault_text(error) == text


def test_what_cannot_be_opened_is_told_from_what_is_damaged(tmp_path):
    # An empty folder is what remains of a disk that is gone.
    for file in (tmp_path / "gone.jpg", tmp_path / "gone" / "a.jpg", tmp_path):
        assert check_image(file).startswith(images.UNREACHABLE + ": ")
    (tmp_path / "other.txt").touch()
    assert check_image(tmp_path / "gone.jpg") == "there is no such file"
    assert check_image(tmp_path / "gone" / "a.jpg").startswith(images.UNREACHABLE + ": ")


def test_files_and_arrays_are_framed_alike(tmp_path):
    pixels = noise(3, 40, 50, 3)
    files = [save(tmp_path / f"{row}.png", image) for row, image in enumerate(pixels)]
    framing = Framing(0.6, 21)
    for found in (ImageFiles(files, framing), ImageArrays(pixels, framing)):
        assert isinstance(found, images.Images)
        assert found.shape == (3, 21, 21, 3)
        assert len(found) == 3
        for row, file in enumerate(files):
            np.testing.assert_array_equal(found[row], read_image(file, framing))


def test_arrays_that_are_too_small_are_refused_as_files_are():
    with pytest.raises(images.Unusable, match="too small: 15 x 40 pixels"):
        ImageArrays(noise(1, 40, 15, 3), Framing())[0]


def test_a_folder_is_searched_with_all_in_it_each_once(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    for folder in (root / "b", root / ".hidden", other / "deep"):
        folder.mkdir(parents=True)
    for file in ("b.jpg", "b/2.PNG", ".hidden/3.jpg", ".4.jpg", "notes.txt", "b/5.webp"):
        (root / file).touch()
    (other / "deep" / "6.tiff").touch()
    (root / "linked").symlink_to(other)
    (root / "b" / "loop").symlink_to(root)
    (other / "again").symlink_to(root / "b")
    (root / "7.jpg").symlink_to(root / "b.jpg")
    (root / "8.jpg").symlink_to(tmp_path / "gone")
    found = [os.path.relpath(file, root) for file in paths.find_files(root)]
    assert found == ["7.jpg", "8.jpg", "b/2.PNG", "b/5.webp", "b.jpg", "linked/deep/6.tiff"]


def test_a_folder_that_vanishes_is_not_skipped(tmp_path):
    with pytest.raises(UserError, match="gone: cannot be searched for images: No such file"):
        list(paths.find_files(tmp_path / "gone"))


def test_a_pipe_is_not_waited_for_and_a_link_to_itself_does_not_end_a_search(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "whole.jpg")
    found = list(paths.find_files(tmp_path))
    assert [os.path.basename(file) for file in found] == ["loop.png", "pipe.jpg", "whole.jpg"]
    faults = [images.check_image(file) for file in found]
    assert faults[1] == "expected a file, found a pipe, a socket or a device"
    assert "symbolic links" in faults[0]
    assert faults[2] == ""
    with pytest.raises(images.Unusable):
        images.read_image(found[1], Framing(1.0, 16))
