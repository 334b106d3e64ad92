"""Rules for the files: imports of packages, lengths, places of tests, and words of texts."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "moleflow_pl"
# a place imports only from places behind it, and its names not from one another
ORDER = [
    "cli", "service", "callbacks", "report", "inference export", "module", "model", "routing",
    "flow checkpoints data", "features metrics", "tasks scoring", "_internal", "errors",
]  # fmt: skip
PLACES = {name: place for place, names in enumerate(ORDER) for name in names.split()}
MODULES = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
LONGEST_FILE = 400  # lines
LONGEST_FUNCTION = 60  # lines
EXTEND = r"\b(?:Add|Put|subclass|[Nn]ew\s+\w+)\b"  # in the docstring of a package
PRINTS = r"(^|\.)print(_\w+)?$"  # a function that prints
MOST_PACKAGES = 16  # that a reader meets in `moleflow_pl`
# names of what read the files of versions that were never released, written so as not to be found
LEGACY = "|".join(("UNS" + "AID", "SAID" + "_LATER"))

# one word for one concept, in messages, comments, pages and docs: what is not said, and what is
WORDS = {
    r"(?<![.{])told(?!:)|nobody tells|router tells": "oracle, reported, given, decides",
    r"(?:by|with) (?:its|the|their) own experts?|own scores": "oracle, oracle scores",
    r"goods": "good images",
    r"(?:routed|sent) right|go(?:es)? astray": "routed correctly, routing accuracy",
    r"(?:kept|stored) latents|drawn freely": "memory bank, random subsampling",
    r"(?:held|hold|holds|holding) (?:out|back)": "calibration images, calibration set",
    r"promise[ds]?": "confidence interval, guarantee",
    r"(?:distance|novelty distance) limits?": "novelty limit",
    r"numbers stored|parameter numbers": "parameters",
    r"reckon(?:ed|s|ing)?": "compute",
    r"mend(?:ed|s|ing)?": "fix",
    r"thr(?:ow|ows|ew|own|owing) away": "discard",
}  # fmt: skip


def name_of(path: Path) -> str:
    """The package or module at the top of `moleflow_pl` that a file is in; "" for itself."""
    name = path.relative_to(PACKAGE).parts[0]
    return "" if name == "__init__.py" else name.removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Absolute names of all that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: write out where {node.module} is"
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name for name in names if name != "moleflow_pl.__version__")
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def imported_packages(path: Path) -> set[str]:
    """Names at the top of `moleflow_pl` that a file imports from, but its own."""
    parts = [name.split(".") for name in imports(path)]
    found = {part[1] for part in parts if part[0] == "moleflow_pl" and len(part) > 1}
    # a name that the package itself exports comes from the top
    return {name if name in PLACES else "" for name in found} - {name_of(path)}


def tracked(*folders: str) -> list[Path]:
    """The Python files of some folders."""
    return [path for folder in folders for path in (ROOT / folder).rglob("*.py")]


def test_every_name_at_the_top_has_its_place() -> None:
    assert {name_of(path) for path in PACKAGE.rglob("*.py")} - {""} == set(PLACES)
    packages = list(PACKAGE.glob("*/__init__.py"))
    assert len(packages) <= MOST_PACKAGES


@pytest.mark.parametrize("name", PLACES)
def test_a_package_imports_only_from_those_behind_it(name: str) -> None:
    behind = {other for other, place in PLACES.items() if place > PLACES[name]}
    # `moleflow_pl` itself exports the public names of many packages: only who imports it from
    # outside, and the places that use all of it, go by them
    allowed = behind | ({""} if PLACES[name] <= PLACES["report"] else set())
    for path in PACKAGE.rglob("*.py"):
        if name_of(path) == name:
            assert imported_packages(path) <= allowed, path


def test_imports_of_packages_have_no_circle() -> None:
    graph = {name: set[str]() for name in PLACES}
    for path in PACKAGE.rglob("*.py"):
        if name := name_of(path):
            graph[name] |= imported_packages(path) - {""}
    assert set(TopologicalSorter(graph).static_order()) == set(PLACES)


def test_nothing_in_the_package_imports_what_is_outside_of_it() -> None:
    outside = {"benchmarks", "callbacks", "cli", "commands", "docs", "tests"}
    for path in PACKAGE.rglob("*.py"):
        assert not {name.split(".")[0] for name in imports(path)} & outside, path


def private_names(path: Path) -> Iterator[tuple[str, bool]]:
    """The private names that a file imports, reads or defines, and whether it defines them."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            yield node.attr, isinstance(node.ctx, ast.Store)
        elif isinstance(node, ast.Name):
            yield node.id, isinstance(node.ctx, ast.Store)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, True
    for name in imports(path):
        if not name.startswith("moleflow_pl."):
            yield from ((part, False) for part in name.split("."))


def test_private_names_of_other_packages_have_one_place() -> None:
    """A name that no other module defines is one of Lightning, torch or jsonargparse."""
    places = {"lightning_compat.py", "torch_compat.py"}
    documented = {"_asdict", "_fields", "_replace", "_xoptions"}  # by Python itself
    others = [path for path in MODULES if path.name not in places]
    names = {path: set(private_names(path)) for path in others}
    defined = {name for found in names.values() for name, defines in found if defines}
    for path, found in names.items():
        private = {name for name, _ in found if re.match("_[^_]", name)}
        assert not private - defined - documented, path


def test_names_in_a_run_folder_have_one_place() -> None:
    owners = [
        PACKAGE / "_internal" / "result_names.py",
        PACKAGE / "checkpoints" / "run_folder.py",
    ]
    texts = [node for path in owners for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    owned = {node.value for node in texts if isinstance(node, ast.Constant)}
    for path in set(MODULES) - set(owners):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
                name = getattr(node.right, "value", None)
                assert not (isinstance(name, str) and name in owned), (path, node.lineno)


def test_every_package_says_what_it_is_for() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert len(docstring.splitlines()) >= 2, path
        assert re.search(r"\bprivate\b", docstring, re.IGNORECASE), f"{path}: what is private?"
        assert re.search(EXTEND, docstring), f"{path}: where does one extend it?"


def test_what_raises_an_error_is_named() -> None:
    """An entry of `Raises:` begins with its subject, not with a pronoun."""
    unclear = re.compile(r"\w+: (?:it|they|none|one|there (?:is|are) none)\b")
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                _, _, raises = (ast.get_docstring(node) or "").partition("Raises:\n")
                entries = raises.partition("\n\n")[0]
                assert not unclear.search(entries), (path, node.name)


def test_no_file_is_too_long() -> None:
    for path in tracked("moleflow_pl", "callbacks", "benchmarks", "tests"):
        assert len(path.read_text().splitlines()) <= LONGEST_FILE, path


def test_no_function_is_too_long() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                assert lines <= LONGEST_FUNCTION, f"{path}: {node.name} has {lines} lines"


def test_every_module_has_a_test_file() -> None:
    missing = [
        path.relative_to(ROOT)
        for path in MODULES
        if not (ROOT / "tests" / path.relative_to(PACKAGE).with_name(f"test_{path.name}")).exists()
    ]
    assert not missing


def test_every_test_file_has_a_module_or_is_a_story() -> None:
    ours = {path.relative_to(PACKAGE) for path in MODULES}
    for path in tracked("tests"):
        place = path.relative_to(ROOT / "tests")
        if place.parts[0] in ("benchmarks", "stories") or not place.name.startswith("test_"):
            continue
        mirrored = place.with_name(place.name.removeprefix("test_"))
        assert mirrored in ours or path == Path(__file__), place


def test_no_test_imports_another() -> None:
    for path in tracked("tests"):
        for name in imports(path):
            assert not re.search(r"(^|\.)(test_\w+|conftest)\.", f"{name}."), (path, name)


def test_nothing_is_left_of_files_that_no_version_wrote() -> None:
    folders = ("moleflow_pl", "callbacks", "configs", "tests", "benchmarks", "docs", ".ci")
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    # Python joins the parts of the pattern in what it compiles
    files = [p for p in [*ROOT.iterdir(), *inside] if p.is_file() and p.suffix != ".pyc"]
    assert Path(__file__) in files
    for path in files:
        assert not re.search(LEGACY.encode(), path.read_bytes()), path


def test_every_schema_is_read_by_the_one_place_that_upgrades() -> None:
    for path in set(MODULES) - {
        PACKAGE / "_internal" / name for name in ("schema.py", "upgrade.py")
    }:
        assert "require_schema" not in path.read_text("utf-8"), path


def test_every_text_file_is_opened_as_utf8() -> None:
    """The system's own encoding may lack the letters of a name."""
    for path in MODULES:
        nodes = ast.walk(ast.parse(path.read_text("utf-8")))
        for call in [node for node in nodes if isinstance(node, ast.Call)]:
            name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
            words = [a.value for a in call.args if isinstance(a, ast.Constant)]
            keywords = {keyword.arg for keyword in call.keywords}
            binary = any("b" in str(word) for word in words)
            if name == "read_text" or (name == "open" and set(words) & {"r", "w", "a"}):
                assert binary or "encoding" in keywords or "utf-8" in words, (path, call.lineno)
            assert getattr(call.func, "id", "") != "open", (path, call.lineno)


def test_every_file_that_is_read_is_asked_first_whether_it_is_one() -> None:
    """A pipe would be waited for, and a device may have no end."""
    # read before, or made just now
    ours = {"file.open()", "self.open()", "np.load(part, mmap_mode='r+')", "path.open('r+b')"}
    loads = ("np.load", "torch.export.load", "onnxruntime.InferenceSession")
    # with limits and checks of their own
    alone = {"torch.load": ["torch_files.py"], "safe_open": ["experts.py", "torch_files.py"]}
    for path in MODULES:
        nodes = ast.walk(ast.parse(path.read_text("utf-8")))
        for node in [node for node in nodes if isinstance(node, ast.Call)]:
            function, call = ast.unparse(node.func), ast.unparse(node)
            assert path.name in alone.get(function, [path.name]), (path, node.lineno)
            read = re.search(r"\.(read_text|read_bytes|open)$", function)
            if call in ours or re.match(r"(Image|os|super\(\))\.open\(", call):
                continue
            if read and not re.search(r"\.open\(('[wa]b?'|mode)", call):
                assert function.startswith("regular("), (path, node.lineno)
            if function in loads:
                assert ast.unparse(node.args[0]).startswith("regular("), (path, node.lineno)


def printing(text: str) -> list[str]:
    """The calls in a module's text that print."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    return [name for call in calls if re.search(PRINTS, name := ast.unparse(call.func))]


@pytest.mark.parametrize(
    "call", ["print(1)", "print_table(x)", "Console().print(x)", "c.print_json()"]
)
def test_a_call_that_prints_is_noticed(call: str) -> None:
    assert printing(f"def show():\n    {call}")
    assert not printing("printable(x); log_table(logger, x)")


def test_the_command_alone_prints() -> None:
    """Everything else logs, its tables too; one module holds what draws them."""
    for path in MODULES:
        if name_of(path) != "cli" and path != PACKAGE / "_internal" / "console.py":
            assert not printing(path.read_text("utf-8")), path


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """The texts of a file with their first lines: of Python, the strings and comments."""
    if path.suffix != ".py":
        yield 1, path.read_text(encoding="utf-8")
        return
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if tokenize.tok_name[token.type] in ("STRING", "FSTRING_MIDDLE", "COMMENT"):
            yield token.start[0], token.string


def test_a_concept_has_one_word() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *PACKAGE.rglob("*.html")]
    files = [*pages, *tracked("moleflow_pl", "benchmarks", "docs")]
    texts = [(path, *text) for path in files for text in texts_of(path)]
    wrong = []
    for words, right in WORDS.items():
        pattern = re.compile(rf"(?i)\b(?:{words})\b".replace(" ", r"\s+"))
        for path, first, text in texts:
            for match in pattern.finditer(text):
                line = first + text[: match.start()].count("\n")
                wrong.append(f"{path.relative_to(ROOT)}, line {line}: {match[0]!r}; say {right}")
    assert not wrong, "\n".join(wrong)
