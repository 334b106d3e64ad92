import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from moleflow_pl._internal import libraries
from moleflow_pl._internal.libraries import Late, late_disable, without, without_compiler

HEAVY = """
class Rotations:
    def rvs(self, count):
        return [count]
    def __call__(self, count):
        return -count
rotations = Rotations()
other = 3
"""


@pytest.fixture
def heavy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that nothing has imported, which is forgotten after the test."""
    (tmp_path / "heavy_module.py").write_text(HEAVY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "heavy_module", None)  # restored by its absence
    del sys.modules["heavy_module"]
    return "heavy_module"


def is_imported(name: str) -> bool:
    module = sys.modules.get(name)
    return module is not None and not isinstance(module, libraries.StandIn)


def test_lazy_attribute_is_imported_on_first_use(heavy: str) -> None:
    with without(heavy, "rotations"):
        from heavy_module import rotations
    assert heavy not in sys.modules
    assert isinstance(rotations, Late)
    assert rotations.rvs(3) == [3]
    assert rotations(2) == -2
    assert is_imported(heavy)


def test_lazy_attribute_can_be_used_inside_the_module(heavy: str) -> None:
    with without(heavy, "rotations"):
        from heavy_module import rotations

        assert rotations(2) == -2
        assert is_imported(heavy)
    assert is_imported(heavy)


def test_another_name_is_imported_at_once(heavy: str) -> None:
    with without(heavy, "rotations"):
        from heavy_module import other
    assert other == 3
    assert is_imported(heavy)


def test_walking_through_all_modules_imports_none(heavy: str) -> None:
    with without(heavy, "rotations"):
        assert not any(hasattr(sys.modules[heavy], name) for name in ("__file__", "__path__"))
        assert not is_imported(heavy)


def test_what_is_imported_already_is_left_alone(heavy: str) -> None:
    import heavy_module

    with without(heavy, "rotations"):
        from heavy_module import rotations
    assert rotations is heavy_module.rotations
    assert sys.modules[heavy] is heavy_module


def test_stand_in_goes_also_where_an_import_fails(heavy: str) -> None:
    with pytest.raises(ImportError), without(heavy, "rotations"):
        raise ImportError
    assert heavy not in sys.modules


def mark(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """A decorator that says that it was one."""
    return lambda *args: ("disabled", options, *args)


def test_a_function_is_disabled_for_the_compiler_once_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(libraries, "COMPILER", "no_such_compiler")

    @late_disable(mark)
    def plain(value: int) -> int:
        """Says so."""
        return value

    assert plain(1) == 1
    assert plain.__doc__ == "Says so."
    assert plain._torchdynamo_disable
    monkeypatch.setitem(sys.modules, "no_such_compiler", torch)
    assert plain(1) == ("disabled", {}, 1)
    assert late_disable(mark)(plain, recursive=False)(2) == ("disabled", {"recursive": False}, 2)


def test_torch_gets_its_own_function_back() -> None:
    own = torch.compiler.disable
    with without_compiler():
        assert torch.compiler.disable is not own
    assert torch.compiler.disable is own


@pytest.mark.slow  # imports the compiler
def test_the_compiler_skips_a_disabled_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "COMPILER", "no_such_compiler")

    @late_disable(torch.compiler.disable)
    def doubled(x: torch.Tensor) -> torch.Tensor:
        assert not torch.compiler.is_compiling()
        return 2 * x

    monkeypatch.undo()
    x = torch.ones(2)
    run = torch.compile(lambda x: doubled(x) + 1, backend="eager")
    assert torch.equal(run(x), 3 * x)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(lambda x: doubled(x) + 1, backend="eager", fullgraph=True)(x)
