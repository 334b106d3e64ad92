import gc
from typing import Any

import pytest

from moleflow_pl._internal.garbage import importing


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_is_collected_in_the_block_and_what_it_made_is_left_out_afterwards(
    enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(gc, "callbacks", [*gc.callbacks, lambda phase, info: seen.append(phase)])
    before = gc.get_freeze_count()
    if not enabled:
        gc.disable()
    try:
        with importing():
            made = [[number] for number in range(5000)]
            collections = len(seen)
        frozen = gc.get_freeze_count() - before
        assert (collections, gc.isenabled()) == (0, enabled)
    finally:
        gc.unfreeze()
        gc.enable()
    assert frozen > len(made)


def test_an_error_in_the_block_leaves_the_collector_on() -> None:
    try:
        with pytest.raises(ImportError), importing():
            raise ImportError
        assert gc.isenabled()
    finally:
        gc.unfreeze()
