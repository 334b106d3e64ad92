"""Building modules without random initial weights, which weights from a file replace at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

# `erfinv_` makes a normal distribution of a uniform one, and takes most of the time
DRAWING: set[Callable[..., Any]] = {Tensor.normal_, Tensor.uniform_, Tensor.erfinv_}
DRAWING |= {init.normal_, init.uniform_, init.kaiming_uniform_}  # those that come as a whole


class SkipInit(TorchFunctionMode):
    """Fill tensors with NaN where random numbers would be, so that one left over is noticed.

    Example:
        >>> import torch
        >>> state = torch.random.get_rng_state()
        >>> with SkipInit():
        ...     layer = torch.nn.Linear(3, 3)
        >>> torch.equal(torch.random.get_rng_state(), state)
        True
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function, unless it draws random numbers."""
        options = kwargs or {}
        if function in DRAWING:
            tensor: Tensor = args[0] if args else options["tensor"]
            with torch.no_grad():
                return tensor.fill_(torch.nan)
        return function(*args, **options)
