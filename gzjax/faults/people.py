"""Faults of files that people give or that lie about: images, changing folders, results."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from gzjax.data.paths import is_image
from gzjax.faults.lab import TRAINING, Broken, Lab, check_one_line, damage, files_of
from gzjax.faults.training import fill, interrupted, small_disk

Make = Callable[[Path], object]
SIDE = 40


def encoded(mode: str = "RGB", format: str = "JPEG", side: int = SIDE, **options: object) -> bytes:
    """A picture of noise."""
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(stream, format=format, **options)
    return stream.getvalue()


def good_images() -> dict[str, bytes]:
    """Unusual, but images: {file name: content}."""
    found = {
        f"{format}-{mode}.{suffix}": encoded(mode, format)
        for format, suffix, modes in (
            ("JPEG", "jpg", ("RGB", "L", "CMYK")),
            ("PNG", "png", ("RGB", "RGBA", "L", "LA", "P", "1")),
            ("TIFF", "tif", ("RGB", "L")),
            ("BMP", "bmp", ("RGB", "L")),
            ("WEBP", "webp", ("RGB",)),
        )
        for mode in modes
    }
    for suffix, format in (("png", "PNG"), ("tif", "TIFF")):
        stream = io.BytesIO()
        deep = np.random.default_rng(0).integers(0, 65535, (SIDE, SIDE), np.uint16)
        Image.fromarray(deep).save(stream, format=format)
        found[f"sixteen-bits-{suffix}.{suffix}"] = stream.getvalue()
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "blue")]
    stream = io.BytesIO()
    frames[0].save(stream, format="GIF", save_all=True, append_images=frames[1:])
    found["moving.gif"] = stream.getvalue()
    found["png-called.jpg"] = encoded("RGB", "PNG")
    found["progressive.jpg"] = encoded("RGB", "JPEG", progressive=True)
    found["white space.jpg"] = found["ünïcode.jpg"] = encoded()
    return found


def bad_images(random: np.random.Generator) -> dict[str, bytes | Make]:
    """What is no image, or only the beginning of one."""
    whole = {"jpg": encoded(), "png": encoded(format="PNG"), "tif": encoded(format="TIFF")}
    found: dict[str, bytes | Make] = {
        "empty.jpg": b"",
        "one-pixel.png": encoded("RGB", "PNG", side=1),
        "text.jpg": b"GalaxyID,Class1.1\n1,0.5\n",
        "page.jpg": b"<!DOCTYPE html><html>404</html>",
        "zeros.png": b"\0" * 2000,
        "magic-of-png.png": b"\x89PNG\r\n\x1a\n",
        "magic-of-jpeg.jpg": b"\xff\xd8\xff\xe0",
        "noise.jpg": random.bytes(2000),
        "array.jpg": b"\x93NUMPY",
        # Says that it is 2^31 - 1 pixels a side.
        "huge.png": whole["png"][:16] + b"\x7f\xff\xff\xff" * 2 + whole["png"][24:],
        "no-side.png": whole["png"][:16] + b"\0\0\0\0" * 2 + whole["png"][24:],
        "folder.jpg": lambda path: path.mkdir(),
        "to-nothing.jpg": lambda path: path.symlink_to(path.parent / "nothing"),
        "to-itself.jpg": lambda path: path.symlink_to(path),
        "pipe.jpg": lambda path: os.mkfifo(path),
    }
    for suffix, content in whole.items():
        for number in range(13):
            length = int(random.integers(1, len(content) // 2))
            found[f"cut-{suffix}-{number}.{suffix}"] = content[:length]
    return found


def images(lab: Lab) -> str:
    """Unusual and broken images among those to predict."""
    folder, workdir = lab.place("images"), lab.folder / "undisturbed" / "run"
    lab.undisturbed()
    good, bad = good_images(), bad_images(lab.random)
    (folder / "in").mkdir()
    for name, content in {**good, **bad}.items():
        path = folder / "in" / name
        if callable(content):
            content(path)
        else:
            path.write_bytes(content)
    table = folder / "files.csv"
    pd.DataFrame({"file": [f"in/{name}" for name in {**good, **bad}]}).to_csv(table, index=False)
    predict = "--mode", "predict", "--workdir", workdir, "--images"
    said = []
    for given, output in ((folder / "in", folder / "a.csv"), (table, folder / "b.csv")):
        done = lab.run(*predict, given, "--output", output)
        if done.code or "Traceback" in done.err:
            raise Broken(f"{given.name}: status {done.code}: {done.last}")
        seen = set(pd.read_csv(output, dtype=str)["GalaxyID"])
        listed = Path(f"{output}.unreadable.csv")
        unread = set(pd.read_csv(listed, dtype=str)["GalaxyID"]) if listed.exists() else set()
        # A folder is searched for what is called like an image of a galaxy.
        for name in filter(is_image, good) if given.is_dir() else good:
            if Path(name).stem not in seen:
                raise Broken(f"{given.name}: {name} was not predicted")
        known = seen | unread
        silent = [name for name in bad if Path(name).stem not in known]
        # A folder's own folders, pipes and dangling links are no files of images to be listed.
        if given.is_dir():
            silent = [name for name in silent if (given / name).is_file()]
        if silent:
            raise Broken(f"{given.name}: neither predicted nor listed: {', '.join(silent)}")
        said.append(f"{len(seen)} predicted, {len(bad)} bad ones")
    return "; ".join(said)


def changing(lab: Lab) -> str:
    """Images and rows of a data folder change between a training run's sessions, and during one."""
    folder = lab.place("changing")
    data = _folder_of_galaxies(folder / "data", 120)
    options = (*TRAINING, "--config.data.kind=folder", f"--config.data.root={data}")
    whole = folder / "whole"
    lab.resume(*options, "--workdir", whole)
    said = []
    files = files_of(data / "images_training_rev1")
    victims = [files[int(n)] for n in lab.random.choice(len(files), 2, replace=False)]

    def during(workdir: Path, change: Callable[[], object]) -> None:
        interrupted(lab, workdir, options, step=2)
        change()
        done = lab.run(*options, "--workdir", workdir)
        if done.code:
            check_one_line(done)
        elif not (workdir / "left_out.csv").exists():
            raise Broken("a galaxy was lost, and is not listed")
        said.append("one line" if done.code else "listed")

    keep = {file: file.read_bytes() for file in victims}
    during(folder / "deleted", victims[0].unlink)
    victims[0].write_bytes(keep[victims[0]])
    during(folder / "broken", lambda: victims[1].write_bytes(b"no image"))
    victims[1].write_bytes(keep[victims[1]])
    table = data / "training_solutions_rev1.csv"
    before = table.read_text()
    lines = before.splitlines()
    lines[1] = lines[1].replace(lines[1].split(",")[0], "777777", 1)
    during(folder / "row", lambda: table.write_text("\n".join(lines) + "\n"))
    if said[-1] != "one line":
        raise Broken("a table of other galaxies was taken for the same")
    table.write_text(before)
    # All is as it was: what ended with one line resumes, as if nothing had happened.
    for name, how in zip(("deleted", "broken", "row"), said, strict=True):
        if how == "one line":
            lab.resume(*options, "--workdir", folder / name)
            lab.check_same(folder / name, whole)
    return f"image deleted: {said[0]}; image broken: {said[1]}; row changed: {said[2]}"


def _folder_of_galaxies(folder: Path, number: int) -> Path:
    """The challenge's layout: random votes that obey the tree, and noise for images."""
    from gzjax import trees
    from gzjax.tree import fractions

    gz2, random = trees.load("gz2"), np.random.default_rng(0)
    outputs = random.normal(0, 1, (number, gz2.size)).astype(np.float32)
    voted = np.asarray(fractions(outputs, gz2, "softmax"))
    ids = np.arange(100001, 100001 + number)
    (folder / "images_training_rev1").mkdir(parents=True)
    table = pd.DataFrame(voted, columns=list(gz2.columns))
    table.insert(0, "GalaxyID", ids)
    table.to_csv(folder / "training_solutions_rev1.csv", index=False)
    for name in ids:
        pixels = random.integers(0, 255, (48, 48, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images_training_rev1" / f"{name}.jpg")
    return folder


def results(lab: Lab) -> str:
    """Packs, parts of predictions and caches are cut off, or bits of them flipped."""
    folder, random = lab.place("results"), lab.random
    lab.undisturbed()
    workdir = lab.folder / "undisturbed" / "run"
    sky = "--config", "test", "--config.epochs=3"
    pack = folder / "pack"
    lab.resume(*sky, "--mode", "pack", "--pack", pack)
    predict = "--mode", "predict", "--workdir", workdir, "--images", pack
    # As the damaged ones are: in other batches the last digit may be another.
    lab.resume(*predict, "--output", folder / "whole.csv")
    in_parts = *predict, "--range", 20
    expected = (folder / "whole.csv").read_bytes()
    said = {"one line": 0, "the same": 0}
    for number in range(3 if lab.quick else 20):
        copy = folder / f"pack-{number}"
        shutil.copytree(pack, copy)
        what = damage(files_of(copy)[int(random.integers(0, len(files_of(copy))))], random)
        output = folder / f"{number}.csv"
        done = lab.run(
            *("--mode", "predict", "--workdir", workdir, "--images", copy, "--output", output)
        )
        if done.code:
            check_one_line(done)
        elif output.read_bytes() != expected:
            listed = Path(f"{output}.unreadable.csv")
            if not listed.exists():
                raise Broken(f"{what}: other predictions, and nothing is listed")
        said["one line" if done.code else "the same"] += 1
        shutil.rmtree(copy)
    for number in range(2 if lab.quick else 10):
        output = folder / f"parts-{number}"
        lab.resume(*in_parts, "--output", output)
        what = damage(files_of(output, ("*.parquet",))[int(random.integers(0, 3))], random)
        done = lab.run(*in_parts, "--output", output)
        if done.code:
            check_one_line(done)
        said["one line" if done.code else "the same"] += 1
    for file in files_of(lab.cache)[:400:100]:
        damage(file, random)
    copy = folder / "cache-damaged"
    lab.resume(*TRAINING, "--workdir", copy)
    lab.check_same(copy)
    return ", ".join(f"{name} {times} times" for name, times in said.items())


def no_room(lab: Lab) -> str:
    """The disk is full while a pack and a prediction are written."""
    folder, said = lab.place("no-room"), []
    lab.undisturbed()
    workdir = lab.folder / "undisturbed" / "run"
    pack = "--config", "test", "--mode", "pack", "--pack"
    predict = "--mode", "predict", "--workdir", workdir, "--images", folder / "pack", "--output"
    lab.resume(*pack, folder / "pack")
    lab.resume(*predict, folder / "p.csv")
    for kilobytes in lab.random.integers(0, 500, 2 if lab.quick else 10).tolist():
        with small_disk(folder / "disk", 32) as disk:
            commands = [(*pack, disk / "pack"), (*predict, disk / "p.csv")]
            filler, failed = fill(disk, kilobytes), []
            for command in commands:
                done = lab.run(*command)
                if done.code:
                    check_one_line(done)
                    failed.append(command)
                said.append(done.last if done.code else "had room")
            filler.unlink()
            for command in failed:
                lab.resume(*command)
            if (disk / "p.csv").read_bytes() != (folder / "p.csv").read_bytes():
                raise Broken("other predictions")
            for file in files_of(folder / "pack", ("*.arecord", "*.json")):
                if (disk / "pack" / file.name).read_bytes() != file.read_bytes():
                    raise Broken(f"another {file.name} in the pack")
    return f"{len(said)} times, then the same files: {said[-1]}"
