"""timm, torchvision and FrEIA, imported without torch's compiler and SciPy's statistics.

These libraries decorate two functions for the compiler and take one function from `scipy.stats`;
both imports are slow, and inspecting an image uses neither. Here lazy stand-ins take their place,
which import the real module on first use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

COMPILER = "torch._dynamo"


class StandIn(ModuleType):
    """A stand-in that imports the real module when one of its attributes is used.

    Args:
        name: The module's name.
        late: A name that importing libraries bind at once, but call later or never.
    """

    def __init__(self, name: str, late: str) -> None:
        super().__init__(name)
        self._late = late

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # tools that inspect all modules must not trigger the import
            raise AttributeError(name)
        return Late(self, name) if name == self._late else getattr(self.load(), name)

    def load(self) -> ModuleType:
        """Import and return the real module."""
        self.leave()
        return import_module(self.__name__)

    def leave(self) -> None:
        """Remove the stand-in from `sys.modules`, so that the real module can be imported."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]


class Late:
    """A module attribute that is resolved when it is called or one of its attributes is read."""

    def __init__(self, module: StandIn, name: str) -> None:
        self._module, self._name = module, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._itself()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._itself(), name)

    def _itself(self) -> Any:
        return getattr(self._module.load(), self._name)


@contextmanager
def without(module: str, late: str) -> Iterator[None]:
    """Within the block, replace a module by a stand-in for one of its names."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = stand_in = StandIn(module, late)
    try:
        yield
    finally:
        stand_in.leave()


@contextmanager
def without_compiler() -> Iterator[None]:
    """Within the block, `torch.compiler.disable` does not import the compiler."""
    disable = torch.compiler.disable
    torch.compiler.disable = late_disable(disable)
    try:
        yield
    finally:
        torch.compiler.disable = disable


def late_disable(disable: Callable[..., Any]) -> Callable[..., Any]:
    """A `torch.compiler.disable` that imports the compiler only if it is in use anyway."""

    def decorate(function: Any = None, *args: Any, **kwargs: Any) -> Any:
        if function is None or isinstance(function, type) or COMPILER in sys.modules:
            return disable(function, *args, **kwargs)

        run = function

        @wraps(function)
        def call(*inputs: Any, **options: Any) -> Any:
            nonlocal run
            if run is function and COMPILER in sys.modules:
                run = disable(function, *args, **kwargs)
            return run(*inputs, **options)

        call._torchdynamo_disable = True  # type: ignore[attr-defined]  # the compiler's own mark
        return call

    return decorate


with (
    without("torch._dynamo.utils", "is_compile_supported"),
    without("scipy.stats", "special_ortho_group"),
    without_compiler(),
):
    import timm as timm
    from FrEIA.framework import SequenceINN as SequenceINN
    from FrEIA.modules import InvertibleModule as InvertibleModule
    from torchvision.transforms.functional import InterpolationMode as InterpolationMode
    from torchvision.transforms.functional import gaussian_blur as gaussian_blur
    from torchvision.transforms.functional import rotate as rotate
