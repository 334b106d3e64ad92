import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# a reader follows an image down this list; a module imports only from those above it
LAYERS = [
    "errors", "arguments", "files", "forms", "names", "hashing", "seeding", "ranks", "extractor",
    "tiling", "position", "fused", "merged", "lora", "input_adapter", "statistics", "whitening",
    "flow", "losses", "bank", "sample", "router", "regions", "novelty", "scoring", "patch_scores",
    "metrics",
    "pixel_metrics", "calibration", "schedule", "state", "data.records",
    "data.tree_layouts", "data.listed_layouts",
    "data.layouts", "data.images", "data.check", "data.draws", "data.datasets", "data.features",
    "data.unsorted", "data.datamodule", "data", "checkpoint", "inspection", "learning", "module",
    "stacked", "graph",
    "graph_files", "export", "evaluation", "report", "provenance", "experts", "localisation",
    "predictor", "figures", "heatmap", "gallery", "report_page", "comparison", "",
]  # fmt: skip


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT / "moleflow_pl").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def test_every_module_has_a_test_file() -> None:
    modules = [*ROOT.glob("moleflow_pl/**/*.py"), *ROOT.glob("callbacks/*.py")]
    modules += [*ROOT.glob("commands/*.py"), ROOT / "cli.py"]
    missing = []
    for module in modules:
        if module.name == "__init__.py":
            continue
        folder = module.relative_to(ROOT).parent
        in_package = folder.parts[:1] == ("moleflow_pl",)
        mirrored = folder.relative_to("moleflow_pl") if in_package else folder
        if not (ROOT / "tests" / mirrored / f"test_{module.name}").exists():
            missing.append(str(module.relative_to(ROOT)))
    assert not missing


def test_modules_import_only_from_those_above_them() -> None:
    for path in ROOT.glob("moleflow_pl/**/*.py"):
        above = set(LAYERS[: LAYERS.index(name_of(path))])
        for imported in imports(path):
            assert imported.split(".")[0] not in ("callbacks", "commands", "cli"), path
            if imported.split(".")[0] == "moleflow_pl":
                assert imported.removeprefix("moleflow_pl").lstrip(".") in above, (path, imported)
    for path in ROOT.glob("callbacks/*.py"):
        assert not {name.split(".")[0] for name in imports(path)} & {"commands", "cli"}, path
    for path in ROOT.glob("commands/*.py"):
        assert "cli" not in imports(path), path
