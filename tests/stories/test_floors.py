"""What `setup.cfg` requires: all that the package imports, and the oldest versions of it."""

import ast
import configparser
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.floors import SETUP, UNTRIED, floors

PACKAGE = SETUP.parent / "moleflow_pl"
# by package: the extra whose requirements it may import as well
EXTRAS = {"service": "serve", "export": "export", "data": "heif"}
# OpenCV: four packages exclude each other and provide it, and the error of a camera names one
CHOSEN_BY_USERS = {"cv2"}
DISTRIBUTIONS = packages_distributions()


def config() -> configparser.ConfigParser:
    """The content of `setup.cfg`."""
    parser = configparser.ConfigParser()
    parser.read(SETUP)
    return parser


def requirements(lines: str) -> dict[str, Requirement]:
    """The requirements of an option, by name."""
    parsed = [Requirement(line) for line in lines.splitlines() if line]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


def top_names(path: Path) -> Iterator[str]:
    """The names at the top of all that a file imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield str(node.module).split(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)


def imported(place: Path) -> dict[str, Path]:
    """The requirements that a file, or those of a folder, import, each with a file that does."""
    known = {*sys.stdlib_module_names, "moleflow_pl", *CHOSEN_BY_USERS}
    return {
        canonicalize_name(DISTRIBUTIONS.get(name, [name])[0]): path
        for path in (place.rglob("*.py") if place.is_dir() else [place])
        for name in set(top_names(path)) - known
    }


@pytest.mark.parametrize(
    "name", sorted({path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py")})
)
def test_all_that_a_package_imports_is_declared_with_a_floor(name: str) -> None:
    declared = requirements(config()["options"]["install_requires"])
    if name in EXTRAS:
        declared |= requirements(config()["options.extras_require"][EXTRAS[name]])
    for needed, path in imported(PACKAGE / name).items():
        assert needed in declared, f"{path} imports {needed}, which setup.cfg does not require"
        assert any(limit.operator == ">=" for limit in declared[needed].specifier), needed


def test_floors_satisfy_setup_cfg_and_nothing_older_would() -> None:
    wanted = {}
    for requirement in requirements(config()["options"]["install_requires"]).values():
        limits = {limit.operator: limit.version for limit in requirement.specifier}
        assert requirement.specifier.contains(limits[">="])
        wanted[requirement.name] = limits[">="]
    found = dict(line.split("==") for line in floors(SETUP.read_text()))
    assert found == {name: version for name, version in wanted.items() if name not in UNTRIED}


def test_requirement_without_a_floor_is_refused() -> None:
    with pytest.raises(ValueError, match="rich has no lower limit"):
        floors("[options]\ninstall_requires =\n    timm>=1.0\n    rich\n")
