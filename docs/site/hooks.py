"""Pages of the site that are made of the code and of other files, so that nothing is said twice.

MkDocs calls `on_files` once a build and `on_page_markdown` for each page; the functions that they
call give Markdown.
"""

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Its pages can be made, and tested, without MkDocs.
if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ("tour", "your_own_galaxies")
# At the top of the repository, where others expect them; links between them stay as they are.
TOP = ("CONTRIBUTING.md", "CHANGELOG.md", "LICENSE")


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Adds the pages."""
    from mkdocs.structure.files import File

    for page, text in pages().items():
        files.append(File.generated(config, page, content=text))
    for name in TOP:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fills in what the code knows, where a page has {{ NAME }}."""
    made = {"door": door, "questions": questions}
    return re.sub(r"\{\{ (\w+) \}\}", lambda found: made[found[1]](), markdown)


def pages() -> dict[str, str]:
    """{path within the site: Markdown} of every page that is made here."""
    made = {f"notebooks/{name}.md": notebook(ROOT / f"docs/{name}.py") for name in NOTEBOOKS}
    return made | {
        "reference/recipes.md": recipes(),
        "reference/options.md": options(),
        "reference/flags.md": flags(),
    }


def notebook(source: Path) -> str:
    """A notebook's source in jupytext's percent format, its code in fences."""
    _, *parts = re.split(r"^# %%(.*)\n", source.read_text(encoding="utf-8"), flags=re.M)
    cells = []
    for kind, part in zip(parts[::2], parts[1::2], strict=True):
        if "[markdown]" in kind:
            cells.append(re.sub("^# ?", "", part, flags=re.M).strip())
        else:
            cells.append(f"```python\n{part.strip()}\n```")
    made = f"*The notebook is `docs/{source.stem}.ipynb`, which `launch/notebooks` makes.*"
    cells.insert(1, made)
    return "\n\n".join(cells)


def recipes() -> str:
    """Every recipe of `configs/`: what its docstring says, and its code."""
    sections = [
        "# Recipes\n\nA recipe is a Python file that says what differs from "
        "[the defaults](options.md): `--config gz2` takes a shipped one by name, `--config "
        'mine.py` one of your own by path. In Python, `gzjax.recipe("gz2")`.'
    ]
    for file in sorted((ROOT / "configs").glob("*.py")):
        code = file.read_text(encoding="utf-8")
        about = ast.get_docstring(ast.parse(code)) or ""
        title, _, rest = about.partition("\n\n")
        body = code.split('"""', 2)[2].strip()
        sections.append(
            f"## {file.stem}\n\n`configs/{file.name}`: {' '.join(title.split())}\n\n{rest}\n\n"
            f"```python\n{body}\n```"
        )
    return "\n\n".join(sections)


def options() -> str:
    """Every option of a config: its default, what is allowed, and what its docstring says."""
    from gzjax.run import config

    sections = [
        "# Options\n\nEvery option of a config, with its default. On the command line "
        "`--config.optim.learning_rate=3e-4`, in a recipe or in Python `config.optim.learning_rate "
        "= 3e-4`. A misspelt option, or a value that is not allowed, ends in one line before "
        "anything starts."
    ]
    for group, kind in config.TYPES.items():
        prefix = "" if group == config.TOP else f"{group}."
        title, rows = "Without a group" if group == config.TOP else group, []
        said = documented(kind)
        for field in dataclasses.fields(kind):
            allowed = field.metadata.get("expected", "").replace("{", "&#123;")  # no attributes
            name, default = f"`{prefix}{field.name}`", f"`{field.default!r}`"
            rows.append(row(name, default, allowed, said[field.name]))
        head = "| option | default | expected | |\n|---|---|---|---|"
        sections.append("\n".join([f"## {title}\n", head, *rows]))
    return "\n\n".join(sections)


def documented(kind: type) -> dict[str, str]:
    """{field: what the docstring of a settings type says of it}; a KeyError where it is silent."""
    text = re.sub(r"\n +", " ", inspect.getdoc(kind) or "")
    said = {}
    for names, about in re.findall(r"^(\w+(?:, \w+)*): (.*)$", text, flags=re.M):
        said |= dict.fromkeys(names.split(", "), about)
    return said


def row(*cells: str) -> str:
    """A row of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def flags() -> str:
    """Every flag of `gzjax`, with its default, as `gzjax --help` has them."""
    from gzjax import main

    about, _, modes = (main.__doc__ or "").partition("\n\n")
    listed = "\n".join(
        f"| [`{mode}`](#flag-mode) | {said} |"
        for mode, said in re.findall(r"^ +--mode (\w+) +(.*)$", modes, flags=re.M)
    )
    sections = [
        f"# Command line\n\n{about} `launch/run` takes the same flags.\n\n## Modes\n\n"
        f"| `--mode` | |\n|---|---|\n{listed}",
        "Some modes need flags: "
        + "; ".join(
            f"`{mode}` {', '.join(f'`--{name}`' for name in needed)}"
            for mode, needed in main.MODES.items()
            if needed
        )
        + ".",
        "## Flags\n\n| flag | values | default | |\n|---|---|---|---|\n"
        + "\n".join(flag_rows())
        + "\n\nEvery [option](options.md) of the config is a flag, too: `--config.epochs=5`.",
    ]
    return "\n\n".join(sections)


def flag_rows() -> Iterator[str]:
    """A row of the table for each flag that the command line defines."""
    from absl import flags as absl_flags

    from gzjax import main

    yield "| `--config` | a recipe's name or file | `sky` | The recipe. |"
    for flag in absl_flags.FLAGS.get_flags_for_module(main.__name__):
        kind = flag.parser.flag_type() if flag.parser else "bool"
        values = getattr(flag.parser, "enum_values", None)
        shown = " ".join(f"`{value}`" for value in values if value) if values else kind
        default = str(flag.default_as_str or "").strip("'[]")
        # Without what absl adds: the values in front, and below that a list may be given.
        about = re.sub(r"^(<.*?>)?: ", "", flag.help).split(";\n")[0]
        name = f'<a id="flag-{flag.name}"></a>`--{flag.name}`'
        yield row(name, shown, default and f"`{default}`", about)


def door() -> str:
    """The public functions and types of `gzjax`, by mkdocstrings."""
    import gzjax

    places = {name: f"gzjax.{gzjax._PLACES[name]}" for name in gzjax.__all__}
    return "\n\n".join(
        f"::: {place}.{'load' if name == 'load_tree' else name}\n"
        f"    options: {{ heading: gzjax.{name} }}"
        for name, place in places.items()
    )


def questions() -> str:
    """The rows of a table of the questions of Galaxy Zoo 2."""
    from gzjax.tree import load

    tree = load("gz2")
    names = [f"{each.name}: {answer}" for each in tree.questions for answer in each.answers]
    return "\n".join(
        f"| {each.number} | {each.name} | {', '.join(each.answers)} | "
        f"{' or '.join(names[gate] for gate in each.gates) or 'always'} |"
        for each in tree.questions
    )
