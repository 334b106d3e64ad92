"""Pages of the site that are made from the sources: commands, Python, notebooks, files above docs/.

`mkdocs.yml` names this file, and `mkdocs build` calls its functions.
"""

from __future__ import annotations

import argparse
import pkgutil
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import moleflow_pl
from moleflow_pl.cli import help
from moleflow_pl.cli.main import EVERYWHERE, VERBS

ROOT = Path(__file__).parents[1]
# page of the site: the file above docs/ that it shows
ABOVE = {
    "contribute/index.md": "CONTRIBUTING.md",
    "contribute/security.md": "SECURITY.md",
    "contribute/conduct.md": "CODE_OF_CONDUCT.md",
    "contribute/changes.md": "CHANGELOG.md",
}
PICTURE = re.compile(r"<picture>.*?</picture>", re.DOTALL)
PRIVATE = "moleflow_pl._internal"
# a search finds the pages that people wrote first
API_PAGE = "---\ntitle: {module}\nsearch:\n  boost: 0.2\n---\n\n::: {module}\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Let blocks of `math` become MathML, which browsers show, and name all modules in `nav`."""
    fence = {"name": "math", "class": "math", "format": math}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    (reference,) = [part["Reference"] for part in config.nav or () if "Reference" in part]
    (python,) = [entry for entry in reference if "Python" in entry]
    python["Python"] = [
        python["Python"],
        *(f"reference/python/{module}.md" for module in modules()),
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made from the sources."""
    for path, text in pages():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let the site's own switch choose between a picture's two colours, not the system's."""
    return PICTURE.sub(by_switch, markdown)


def by_switch(found: re.Match[str]) -> str:
    """A picture in each of its two colours, of which the site shows one."""
    light = re.sub(r"\s*<source[^>]*dark[^>]*>", "", found[0])
    light = re.sub(r'( src="[^"]*)', r"\1#only-light", light)
    return light + light.replace("-light", "-dark")


def math(source: str, *_: Any, **__: Any) -> str:
    """A block of LaTeX as MathML."""
    return f'<div class="math">{convert(source, display="block")}</div>'


def pages() -> Iterator[tuple[str, str]]:
    """Yield address and text of each page that is made from the sources."""
    yield "reference/cli.md", command_line()
    yield "reference/python/index.md", python_index()
    for module in modules():
        yield f"reference/python/{module}.md", API_PAGE.format(module=module)
    for page, file in ABOVE.items():
        yield page, (ROOT / file).read_text(encoding="utf-8").replace("](docs/", "](../")
    for source in sorted((ROOT / "docs" / "notebooks").glob("*.py")):
        notebook = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent")
        yield f"notebooks/{source.stem}.md", notebook_page(notebook, source.stem)
        yield f"notebooks/{source.stem}.ipynb", nbformat.writes(notebook)


def modules() -> Iterator[str]:
    """Yield the names of all modules but the private ones."""
    for module in pkgutil.walk_packages(moleflow_pl.__path__, "moleflow_pl."):
        if not module.name.startswith(PRIVATE):
            yield module.name


def notebook_page(notebook: nbformat.NotebookNode, name: str) -> str:
    """A notebook as a page: text as it is, code in blocks."""
    cells = [
        cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```"
        for cell in notebook.cells
    ]
    title, *others = cells
    link = f"[Download as a Jupyter notebook]({name}.ipynb)"
    return "\n\n".join([title, link, *others]) + "\n"


def command_line() -> str:
    """The page of all verbs and options."""
    lines = ["# Command line", "", "Each option is written in full.", ""]
    lines += table(("verb", "does"), [(f"`{verb}`", text) for verb, (_, text) in VERBS.items()])
    everywhere = [(f"`{option}`", text) for option, text in EVERYWHERE.items()]
    lines += ["With every verb:", "", *table(("option", "meaning"), everywhere)]
    for verb in VERBS:
        lines += [f"## moleflow {verb}", ""]
        if verb in help.VERBS:
            lines += ["```text", help.VERBS[verb].replace("{presets}\n", "").strip(), "```", ""]
        else:
            lines += parser_lines(import_module(VERBS[verb][0]).make_parser())
    lines += ["## Options of fit, validate, test and predict", ""]
    for group, (module, kind, example) in help.GROUPS.items():
        rows = [
            (f"`--{group}.{name}`", f"`{value}`", text)
            for name, value, text in help.options(module, kind)
        ]
        lines += [f"### {group}", "", f"For example `{example}`.", ""]
        lines += table(("option", "default", "meaning"), rows)
    rows = [(f"`--trainer.{name}`", f"`{v}`", text) for name, (v, text) in help.TRAINER.items()]
    lines += ["### trainer", "", *table(("option", "default", "meaning"), rows)]
    lines += ["The others are those of Lightning's Trainer.", ""]
    return "\n".join(lines)


def parser_lines(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the lines on a verb that has a parser of its own, and on its actions."""
    usage = parser.format_usage().strip().removeprefix("usage: ")
    yield from ((parser.description or "").strip(), "", "```text", usage, "```", "")
    rows: list[tuple[str, ...]] = []
    actions: Mapping[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            actions = action.choices
        elif action.dest != "help":
            name = ", ".join(action.option_strings) or (action.metavar or action.dest)
            rows.append((f"`{name}`", (action.help or "") % {"default": action.default}))
    if rows:
        yield from table(("option", "meaning"), rows)
    for name, child in actions.items():
        yield from (f"### {parser.prog} {name}", "", *parser_lines(child))
    if parser.epilog:
        yield from ("```text", parser.epilog.strip(), "```", "")


def python_index() -> str:
    """The page of the public names and all modules."""
    rows = [
        (f"[`{name}`][moleflow_pl.{home}.{name}]", f"[moleflow_pl.{home}](moleflow_pl.{home}.md)")
        for name, home in moleflow_pl.HOMES.items()
    ]
    lines = ["# Python", "", "`from moleflow_pl import …` knows these names. They stay; everything"]
    lines += ["else may move between versions.", "", *table(("name", "module"), rows)]
    lines += ["## All modules", ""]
    lines += [f"- [{module}]({module}.md)" for module in modules()]
    return "\n".join([*lines, ""])


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A table in Markdown, and an empty line."""
    cells = [head, tuple("---" for _ in head), *rows]
    return [*(f"| {' | '.join(escaped(cell) for cell in row)} |" for row in cells), ""]


def escaped(cell: str) -> str:
    """The text of a cell: one line, without what would end it."""
    return re.sub(r"\s+", " ", cell).replace("|", "\\|")
