"""Packing the galaxies of a run: decoded once, to be read many times."""

from pathlib import Path

from ml_collections import ConfigDict

from gzjax.data import packing, packs
from gzjax.errors import UserError
from gzjax.run import config as configs
from gzjax.run import galaxies, recorder
from gzjax.run.report import Report


def pack(
    config: ConfigDict,
    folder: Path,
    *,
    cache: str | Path | None,
    check_images: bool,
    report: Report,
    share: tuple[int, int] = (1, 1),
    engine: packing.Engine | None = None,
) -> None:
    """Packs the galaxies of a config into a folder, or resumes where that was interrupted.

    For `share` and `engine` see `packing.write`.

    Raises:
      UserError: a fault in the options or the data, or a folder of something else.
    """
    options = configs.typed(config)
    if options.data.kind == "pack":
        raise UserError("--config.data.kind: expected sky or folder to be packed, found pack")
    tree = galaxies.load_tree(options.data)
    data = galaxies.build_data(options, tree, cache, check_images, report)
    with report.task(f"packing galaxies into {folder}") as progress:
        left = packing.write(folder, data, share=share, engine=engine, progress=progress)
    if left:
        report.say(left)
        return
    packed = packs.read(folder, tree=data.tree, framing=data.framing)
    report.say(f"{len(packed.ids)} galaxies ({packed.label}) in {folder}")
    recorder.describe_skipped(packed.left_out, folder, report)
    words = ["--config.data.kind=pack", f"--config.data.root={folder}"]
    if options.data.catalogues:  # all that the recipe names are in it, and so is their tree
        several = dict.fromkeys(each.tree for each in options.data.listed())
        words += ["--config.data.catalogues='()'", f"--config.data.tree={'+'.join(several)}"]
    if options.data.extra:
        words.append("--config.data.extra=")
    report.say(f"{' '.join(words)} reads the pack")
