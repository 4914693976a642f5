"""Pages of the site that are made of other files of the repository, so that nothing is said twice.

MkDocs calls `on_files` once a build; the functions that it calls give Markdown.
"""

import ast
import dataclasses
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # as launch/docs has it
NOTEBOOKS = ("tour", "your_own_galaxies")
# At the top of the repository, where others expect them; links between them stay as they are.
TOP = ("CONTRIBUTING.md", "CHANGELOG.md", "LICENSE")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages."""
    for page, text in pages().items():
        files.append(File.generated(config, page, content=text))
    for name in TOP:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def pages() -> dict[str, str]:
    """{path within the site: Markdown} of every page that is made here."""
    made = {f"notebooks/{name}.md": notebook(ROOT / f"docs/{name}.py") for name in NOTEBOOKS}
    return made | {
        "reference/recipes.md": recipes(),
        "reference/options.md": options(),
        "reference/flags.md": command_line_flags(),
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
    made = f"*The notebook is `docs/{source.stem}.ipynb`; launch/notebooks makes it of its source.*"
    cells.insert(1, made)
    return "\n\n".join(cells)


def recipes() -> str:
    """Every recipe of `configs/`: what its docstring says, and its code."""
    sections = [
        "# Recipes",
        "A recipe is a Python file that says what differs from the defaults: `--config gz2` takes "
        "a shipped one by name, `--config mine.py` one of your own by path. In Python, "
        '`gzjax.recipe("gz2")`.',
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
    """Every option: its default, and what its settings type says of it."""
    from gzjax.run import config

    sections = [
        "# Options",
        "Any of them may follow a command, as in `--config.optim.learning_rate=3e-4`, or stand in "
        "a [recipe](recipes.md), `config.optim.learning_rate = 3e-4`. Misspelt ones are errors.",
    ]
    for group, settings in config.TYPES.items():
        about, described = describe(settings)
        rows = ["| option | default | |", "|---|---|---|"]
        for field in dataclasses.fields(settings):
            name = field.name if group == config.TOP else f"{group}.{field.name}"
            default = "" if field.default is dataclasses.MISSING else f"`{field.default!r}`"
            rows.append(f"| `{name}` | {default} | {cell(described[field.name])} |")
        sections.append(f"## {group}\n\n{about}\n\n" + "\n".join(rows))
    return "\n\n".join(sections)


def describe(settings: type) -> tuple[str, dict[str, str]]:
    """The first paragraph of a settings type's docstring, and {field: what it says of it}."""
    lines = ast.get_docstring(ast.parse(f"class A:\n  {settings.__doc__!r}").body[0]).splitlines()
    found, last = {}, ""
    for line in lines:
        if begins := re.match(r"((?:\w+, )*\w+): (.*)", line):
            last = begins[1]
            found[last] = begins[2]
        elif line.startswith("  ") and last:
            found[last] += " " + line.strip()
    described = {name: text for names, text in found.items() for name in names.split(", ")}
    return " ".join("\n".join(lines).split("\n\n")[0].split()), described


def command_line_flags() -> str:
    """Every flag of the command `gzjax`."""
    from absl import flags

    from gzjax import main

    found = flags.FLAGS.flags_by_module_dict()
    rows = ["| flag | default | |", "|---|---|---|"]
    for flag in sorted(found[main.__name__], key=lambda each: each.name):
        allowed = getattr(flag.parser, "enum_values", None)
        text = flag.help + (f" One of {', '.join(filter(None, allowed))}." if allowed else "")
        default = "" if flag.default in (None, "", []) else f"`{flag.default}`"
        rows.append(f"| `--{flag.name}` | {default} | {cell(text)} |")
    return (
        "# Flags\n\n`gzjax --help` prints them, too. `--config` names the recipe, and "
        "`--config.OPTION=VALUE` changes one of its [options](options.md).\n\n" + "\n".join(rows)
    )


def cell(text: str) -> str:
    """Text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
