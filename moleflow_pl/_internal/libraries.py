"""timm, torchvision and FrEIA, without what they import and inspecting an image never uses.

They decorate two functions for torch's compiler, and take one function of SciPy's statistics. That
costs half the time from the start of a process to its first decision. Here they are imported with
stand-ins, which import the real thing when it is first used.
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
    """A module that is imported when something of it is used.

    Args:
        name: The module's name.
        late: Names in it that are taken at import and used later, if at all.
    """

    def __init__(self, name: str, late: str) -> None:
        super().__init__(name)
        self._late = late

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # whoever walks through all modules uses none
            raise AttributeError(name)
        return Late(self, name) if name == self._late else getattr(self.load(), name)

    def load(self) -> ModuleType:
        """The module itself."""
        self.leave()
        return import_module(self.__name__)

    def leave(self) -> None:
        """Make room for the module itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]


class Late:
    """Something of a module that is imported when it is called, or an attribute is asked for."""

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
    """Do not import a module for one name of it that others take within."""
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
    """Do not import torch's compiler for functions that it is told within to leave alone."""
    disable = torch.compiler.disable
    torch.compiler.disable = late_disable(disable)
    try:
        yield
    finally:
        torch.compiler.disable = disable


def late_disable(disable: Callable[..., Any]) -> Callable[..., Any]:
    """As `torch.compiler.disable`, which imports the compiler to leave a function alone."""

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
    from torchvision.transforms.functional import gaussian_blur as gaussian_blur
