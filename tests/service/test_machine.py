import socket

import pytest

from moleflow_pl.service.machine import NAME, this_machine


def test_a_machine_has_its_host_name_or_the_given_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAME, raising=False)
    assert this_machine() == socket.gethostname()
    monkeypatch.setenv(NAME, "cell 3")
    assert this_machine() == "cell-3"  # a holder of a lock is words
