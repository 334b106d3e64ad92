from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement

from tests.helpers.floors import LARGE, SETUP, floors


def test_floors_are_what_the_installed_package_asks_for_at_least() -> None:
    found = dict(line.split("==") for line in floors(SETUP.read_text()))
    wanted = {}
    for line in requires("moleflow") or []:
        requirement = Requirement(line)
        if requirement.marker is None:  # belongs to no extra
            limits = {limit.operator: limit.version for limit in requirement.specifier}
            wanted[requirement.name] = limits[">="]
    assert set(wanted) - set(found) == set(LARGE)
    assert found == {name: version for name, version in wanted.items() if name not in LARGE}


def test_requirement_without_a_floor_is_refused() -> None:
    with pytest.raises(ValueError, match="rich has no lower limit"):
        floors("[options]\ninstall_requires =\n    timm>=1.0\n    rich\n")
