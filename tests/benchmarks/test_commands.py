"""Scripts stand by themselves, and the documentation names only commands that exist."""

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = {
    f"benchmarks.{path.stem}": path
    for path in sorted((ROOT / "benchmarks").glob("*.py"))
    if 'if __name__ == "__main__"' in path.read_text()
}
LIBRARIES = {"benchmarks.literal"}
DOCS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("benchmarks/*.md")]
COMMAND = re.compile(r"python -m (benchmarks\.\w+)([^`\n|]*)")
FILE = re.compile(r"python (docs/[\w/]+\.py)")
MENTION = re.compile(r"`(benchmarks[./][\w./]+?)(?:\.py)?`")


def imports(path: Path) -> Iterator[str]:
    """Modules of the benchmarks that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            package = node.module or ""
            found = [package] if package != "benchmarks" else [a.name for a in node.names]
            prefix = "benchmarks." if package == "benchmarks" else ""
        elif isinstance(node, ast.Import):
            found, prefix = [alias.name for alias in node.names], ""
        else:
            continue
        yield from (prefix + name for name in found if (prefix + name).startswith("benchmarks"))


def test_scripts_import_the_harness_and_no_other_script() -> None:
    assert len(SCRIPTS) >= 7
    for path in SCRIPTS.values():
        for name in imports(path):
            assert name.startswith("benchmarks.harness.") or name in LIBRARIES, (path.name, name)
    for path in (ROOT / "benchmarks" / "harness").glob("*.py"):
        assert all(name.startswith("benchmarks.harness.") for name in imports(path)), path


def commands() -> set[tuple[str, tuple[str, ...]]]:
    """Commands of the documentation: a script and its arguments."""
    text = "\n".join(path.read_text() for path in DOCS)
    return {(name, tuple(rest.split())) for name, rest in COMMAND.findall(text)}


def help_of(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> str:
    monkeypatch.setattr("sys.argv", [name, *words, "--help"])
    with pytest.raises(SystemExit) as stop:
        import_module(name).main()
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "words"), sorted(commands()), ids=lambda part: part if isinstance(part, str) else None
)
def test_command_of_the_documentation_exists(
    name: str,
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert name in SCRIPTS
    usage = help_of(name, monkeypatch, capsys).partition("\n\n")[0]
    subjects = re.findall(r"\{([\w,-]+)\}", re.sub(r"\[.*?\]", "", usage, flags=re.DOTALL))
    words = tuple(word for word in words if "," not in word)
    if subjects and words:
        assert words[0] in subjects[0].split(","), f"{name}: one of {subjects[0]}"
        usage = help_of(name, monkeypatch, capsys, words[0]).partition("\n\n")[0]
    for word in words:
        if word.startswith("--"):
            assert word in usage, f"{name} has no {word}"


def test_every_script_is_named_in_the_documentation_and_explains_itself() -> None:
    assert set(SCRIPTS) == {name for name, _ in commands()}
    for name, path in SCRIPTS.items():
        assert f"python -m {name}" in (ast.get_docstring(ast.parse(path.read_text())) or "")


def test_files_that_the_documentation_mentions_exist() -> None:
    for path in DOCS:
        text = path.read_text()
        for mention in MENTION.findall(text):
            module = mention.replace("/", ".")
            assert find_spec(module) is not None, f"{path.name} mentions {mention}"
        for file in FILE.findall(text):
            assert (ROOT / file).is_file(), f"{path.name} mentions {file}"
