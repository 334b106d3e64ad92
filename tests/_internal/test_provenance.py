import sys

import numpy as np
import pytest
import torch

from moleflow_pl._internal import provenance
from moleflow_pl._internal.provenance import hardware, versions


def test_versions_are_those_the_packages_give_themselves() -> None:
    found = versions()
    assert found["Python"] == sys.version.split()[0]
    # a package's metadata may leave out where it was built
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["numpy"] == np.__version__


def test_missing_package_is_recorded_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    assert versions()["no-such-package"] == "not installed"


def test_hardware_is_that_of_the_process() -> None:
    found = hardware()
    assert sys.platform in found["system"].lower()
    assert int(found["CPU cores"]) >= 1
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert hardware()["threads of torch"] == "3"
    finally:
        torch.set_num_threads(before)
