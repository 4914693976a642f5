"""Mistakes on the command line, and tables that are none."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gzjax.faults.lab import Broken, Lab, check_one_line

WRONG_TABLES = {
    "empty": "",
    "header alone": "GalaxyID,Class1.1,Class1.2,Class1.3\n",
    "no id": "Class1.1,Class1.2,Class1.3\n0.1,0.2,0.7\n",
    "no votes": "GalaxyID\n1\n2\n",
    "words": "GalaxyID,Class1.1,Class1.2,Class1.3\n1,many,few,none\n",
    "binary": "\0\1\2\3",
    "other separator": "GalaxyID;Class1.1;Class1.2\n1;0.5;0.5\n",
    "ragged": "GalaxyID,Class1.1,Class1.2,Class1.3\n1,0.1,0.2,0.7,0.9,1\n",
    "twice the same column": "GalaxyID,Class1.1,Class1.1,Class1.3\n1,0.1,0.2,0.7\n",
    "negative": "GalaxyID,Class1.1,Class1.2,Class1.3\n1,-0.1,0.4,0.7\n",
    "infinite": "GalaxyID,Class1.1,Class1.2,Class1.3\n1,inf,0.4,0.7\n",
    "sums to two": "GalaxyID,Class1.1,Class1.2,Class1.3\n1,0.9,0.4,0.7\n",
    "positions alone": "ra,dec,Class1.1,Class1.2,Class1.3\n1.0,2.0,0.1,0.2,0.7\n",
}


def wrong_commands(folder: Path) -> list[list[str]]:
    """Command lines with one mistake each."""
    numbers = {
        "epochs": ("0", "-1", "1.5", "many"),
        "batch_size": ("0", "100000"),
        "seed": ("-1",),
        "data.validation": ("0", "0.9"),
        "data.test": ("-0.1",),
        "data.canvas": ("1",),
        "data.crop": ("0", "2"),
        "data.galaxies": ("3",),
        "data.threads": ("0",),
        "data.tree": ("gz3", str(folder / "none.toml")),
        "data.kind": ("sea",),
        "model.name": ("resnet50",),
        "model.image_size": ("4",),
        "model.dtype": ("float8",),
        "model.norm_groups": ("0", "5"),
        "model.weights": ("nowhere/at/all",),
        "optim.learning_rate": ("0", "-1", "fast"),
        "optim.schedule": ("linear",),
        "optim.accumulate": ("0", "100000"),
        "optim.freeze": ("99",),
        "average.decay": ("1", "-0.5"),
        "views.zoom": ("0.5",),
        "views.rotate": ("270",),
        "loss.terms": ("()", "('mse','mse')", "('wings',)"),
        "loss.activation": ("tanh",),
        "evaluate.views": ("0",),
        "checkpoint.every": ("0",),
        "log.trackers": ("('paper',)",),
        "no.such.option": ("1",),
    }
    found = [
        ["--config", "test", f"--config.{name}={value}"]
        for name, values in numbers.items()
        for value in values
    ]
    found += [
        ["--config", "nowhere.py"],
        ["--config", str(folder)],
        ["--mode", "fly"],
        ["--mode", "predict"],
        ["--mode", "predict", "--images", str(folder), "--output", "x.jpg"],
        ["--mode", "evaluate", "--workdir", str(folder)],
        ["--mode", "export", "--workdir", str(folder)],
        ["--mode", "similar", "--embeddings", str(folder / "none.parquet"), "--query", "1"],
        ["--mode", "explore", "--predictions", str(folder / "none.csv"), "--output", "x.html"],
        ["--mode", "pack", "--config", "test"],
        ["--part", "3/2", "--mode", "predict", "--images", str(folder), "--output", "x.csv"],
        ["--profile", "later", "--config", "test"],
        ["--views", "0"],
        ["--wings"],
        ["words"],
    ]
    for name, text in WRONG_TABLES.items():
        root = folder / name.replace(" ", "-")
        (root / "images_training_rev1").mkdir(parents=True)
        (root / "training_solutions_rev1.csv").write_text(text)
        found.append(["--config", "gz2", f"--config.data.root={root}", "--config.model.weights="])
    return found


def mistakes(lab: Lab) -> str:
    """Wrong options, commands and tables."""
    folder = lab.place("mistakes")
    commands = wrong_commands(folder)
    if lab.quick:
        chosen = sorted(lab.random.choice(len(commands), 20, replace=False).tolist())
        commands = [commands[number] for number in chosen]

    def tried(arguments: list[str]) -> str:
        workdir = [] if "--workdir" in arguments else ["--workdir", folder / "none"]
        done = lab.run(*arguments, *workdir)
        try:
            check_one_line(done)
        except Broken as broken:
            return f"{' '.join(arguments)}: {broken}"
        return ""

    with ThreadPoolExecutor(2) as pool:
        wrong = [text for text in pool.map(tried, commands) if text]
    if wrong:
        raise Broken(f"{len(wrong)} of {len(commands)}: {wrong[0]}")
    if (folder / "none").exists():
        raise Broken("a workdir was begun")
    return f"{len(commands)} mistakes, one line each"
