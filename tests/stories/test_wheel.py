"""The wheel as a user gets it: built from the sdist, installed without the checkout."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

import moleflow_pl
from tests.helpers.products import draw_product
from tests.helpers.story import MODEL

ROOT = Path(__file__).parents[2]
# what a build finds in a fresh checkout, the parts that are not for the wheel included
SOURCES = (
    "moleflow_pl", "configs", "callbacks", "benchmarks", "docs", "tests", "cli.py", "conftest.py",
    "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "NOTICE",
)  # fmt: skip
BUILD_SDIST = "import sys, setuptools.build_meta as b; b.build_sdist(sys.argv[1])"
# what users call files of their own: no import of the package may find them on PYTHONPATH
OWN = ("callbacks.py", "cli.py", "configs/__init__.py", "commands/__init__.py", "tests/__init__.py")
IMPORTS = f"""\
import pathlib, sys
from moleflow_pl import {", ".join(moleflow_pl.__all__)}
from moleflow_pl.callbacks import TaskSchedulerCallback
import moleflow_pl
home = pathlib.Path(moleflow_pl.__file__)
assert home.is_relative_to(sys.prefix), home
assert MoLEFlow.__module__ == "moleflow_pl.module"
"""

pytestmark = pytest.mark.slow


def run(*args: object, where: Path, env: Mapping[str, str] | None = None) -> str:
    """What a program prints; its output where it fails."""
    result = subprocess.run(
        [*map(str, args)], cwd=where, env=env, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the sdist of a copy of the checkout, without a network."""
    where = tmp_path_factory.mktemp("build")
    source = where / "source"
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    run(sys.executable, "-c", BUILD_SDIST, where, where=source)
    (sdist,) = where.glob("*.tar.gz")
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", where)
    run(sys.executable, "-m", "pip", "wheel", *options, sdist, where=where)
    (path,) = where.glob("*.whl")
    return path


class Installed:
    """An environment with the wheel and the packages of this one, but not the checkout."""

    def __init__(self, wheel: Path, where: Path) -> None:
        self.where = where
        venv.create(where / "venv", with_pip=False)
        self.bin = where / "venv" / ("Scripts" if os.name == "nt" else "bin")
        packages = [path for path in sys.path if Path(path).name == "site-packages"]
        (site,) = (where / "venv").glob("[Ll]ib/**/site-packages")
        (site / "others.pth").write_text("\n".join(packages))
        pip = (sys.executable, "-m", "pip", "--python", self.bin / "python", "install")
        options = ("--no-deps", "--no-index", "--ignore-installed")
        run(*pip, *options, wheel, where=where)
        self.own = where / "own"
        for name in OWN:
            (self.own / name).parent.mkdir(parents=True, exist_ok=True)
            (self.own / name).write_text("raise ImportError('this file is the user\\'s own')")

    def run(self, program: str, *args: object) -> str:
        """Run a program of the environment in an empty folder, beside the user's own files."""
        empty = self.where / "empty"
        shutil.rmtree(empty, ignore_errors=True)
        empty.mkdir()
        env = {**os.environ, "PYTHONPATH": str(self.own)}
        return run(self.bin / program, *args, where=empty, env=env)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(wheel, tmp_path_factory.mktemp("installed"))


def test_the_wheel_contains_exactly_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
        (top,) = [name for name in archive.namelist() if name.endswith("top_level.txt")]
        assert archive.read(top).decode().split() == ["moleflow_pl"]
    package = ROOT / "moleflow_pl"
    files = [path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    presets = [f"moleflow_pl/configs/{path.name}" for path in (ROOT / "configs").iterdir()]
    assert sorted(names) == sorted([*presets, *(str(p.relative_to(ROOT)) for p in files)])
    assert "moleflow_pl/py.typed" in names
    assert "moleflow_pl/report/templates/report.html" in names
    assert f"moleflow-{moleflow_pl.__version__}-" in wheel.name


def test_the_command_and_all_public_names_work_without_the_checkout(installed: Installed) -> None:
    assert installed.run("moleflow", "--version") == f"moleflow {moleflow_pl.__version__}\n"
    shown = installed.run("moleflow", "fit", "--config", "demo", "--help")
    assert "moleflow fit --config demo" in shown
    assert "Presets: demo, " in shown
    installed.run("python", "-c", IMPORTS)


def test_a_tiny_fit_works_from_the_wheel(installed: Installed, tmp_path: Path) -> None:
    for seed, name in enumerate(("01", "b")):
        draw_product(tmp_path / "data", name, seed, train=4)
    # the preset is read, and then a smaller model is put in the place of its own
    flags = [*MODEL, "--model.smooth=1", "--model.grid=null", "--data.layout=mvtec"]
    places = [f"--data.root={tmp_path / 'data'}", f"--trainer.default_root_dir={tmp_path / 'run'}"]
    fit = ["fit", "--config", "demo", *flags, *places, "--data.tasks=[01, b]"]
    shown = installed.run("moleflow", *fit, "--schedule.epochs_per_task=1")
    assert "image AUROC" in shown
    assert (tmp_path / "run" / "report" / "report.html").is_file()
    assert "group_norm: layer_norm" in (tmp_path / "run" / "config.yaml").read_text()
