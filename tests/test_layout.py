from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_module_has_a_test_file() -> None:
    modules = [*ROOT.glob("moleflow_pl/**/*.py"), *ROOT.glob("callbacks/*.py"), ROOT / "cli.py"]
    missing = []
    for module in modules:
        if module.name == "__init__.py":
            continue
        folder = module.relative_to(ROOT).parent
        mirrored = (
            folder.relative_to("moleflow_pl") if folder.parts[:1] == ("moleflow_pl",) else folder
        )
        if not (ROOT / "tests" / mirrored / f"test_{module.name}").exists():
            missing.append(str(module.relative_to(ROOT)))
    assert not missing


def test_no_import_points_up() -> None:
    for module in ROOT.glob("moleflow_pl/**/*.py"):
        text = module.read_text()
        assert "import callbacks" not in text, module
        assert "from callbacks" not in text, module
        assert "cli import" not in text.replace("pytorch.cli import", ""), module
    for module in ROOT.glob("callbacks/*.py"):
        assert "from cli" not in module.read_text(), module
