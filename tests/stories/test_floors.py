import configparser

import pytest
from packaging.requirements import Requirement

from tests.helpers.floors import LARGE, SETUP, floors


def test_floors_satisfy_setup_cfg_and_nothing_older_would() -> None:
    config = configparser.ConfigParser()
    config.read(SETUP)
    wanted = {}
    for line in config["options"]["install_requires"].split():
        requirement = Requirement(line)
        limits = {limit.operator: limit.version for limit in requirement.specifier}
        assert requirement.specifier.contains(limits[">="])
        wanted[requirement.name] = limits[">="]
    found = dict(line.split("==") for line in floors(SETUP.read_text()))
    assert found == {name: version for name, version in wanted.items() if name not in LARGE}


def test_requirement_without_a_floor_is_refused() -> None:
    with pytest.raises(ValueError, match="rich has no lower limit"):
        floors("[options]\ninstall_requires =\n    timm>=1.0\n    rich\n")
