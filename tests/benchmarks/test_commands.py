"""Scripts stand by themselves, and the documentation names only commands that exist."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    path
    for path in (ROOT / "benchmarks").glob("*.py")
    if 'if __name__ == "__main__"' in path.read_text()
)
LIBRARIES = {"benchmarks.literal"}
DOCS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("benchmarks/*.md")]
COMMAND = re.compile(r"python -m (benchmarks\.\w+)(?: ([a-z][a-z-]*))?")
MENTION = re.compile(r"`(benchmarks[./][\w./]+?)(?:\.py)?`")


def imported(path: Path) -> Iterator[str]:
    """Modules of the benchmarks that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "benchmarks":
            yield from (f"benchmarks.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def of_benchmarks(path: Path) -> set[str]:
    return {name for name in imported(path) if name.split(".")[0] == "benchmarks"}


def test_scripts_import_the_harness_and_no_other_script() -> None:
    assert len(SCRIPTS) >= 7
    for path in SCRIPTS:
        for name in of_benchmarks(path):
            assert name.startswith("benchmarks.harness.") or name in LIBRARIES, (path.name, name)
    for path in (ROOT / "benchmarks" / "harness").glob("*.py"):
        assert all(name.startswith("benchmarks.harness.") for name in of_benchmarks(path)), path


def commands() -> set[tuple[str, str]]:
    """Scripts and the subjects after them that the documentation names."""
    text = "\n".join(path.read_text() for path in DOCS)
    return {(name, subject) for name, subject in COMMAND.findall(text)}


@pytest.mark.parametrize(("name", "subject"), sorted(commands()))
def test_command_of_the_documentation_exists(name: str, subject: str) -> None:
    spec = find_spec(name)
    assert spec is not None, name
    assert Path(str(spec.origin)) in SCRIPTS
    source = Path(str(spec.origin)).read_text()
    if subject:
        assert f'"{subject}"' in source, f"{name} knows no {subject}"


def test_every_script_is_named_in_the_documentation() -> None:
    assert {f"benchmarks.{path.stem}" for path in SCRIPTS} == {name for name, _ in commands()}


def test_modules_that_the_documentation_mentions_exist() -> None:
    for path in DOCS:
        for mention in MENTION.findall(path.read_text()):
            module = mention.replace("/", ".")
            assert find_spec(module) is not None, f"{path.name} mentions {mention}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_explains_itself(path: Path) -> None:
    command = [sys.executable, "-m", f"benchmarks.{path.stem}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"python -m benchmarks.{path.stem}" in done.stdout
