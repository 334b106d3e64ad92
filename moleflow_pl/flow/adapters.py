"""Input adapters: the part of an expert before the flow, behind one signature."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from moleflow_pl._internal.registry import Registry
from moleflow_pl.features.statistics import FeatureStatistics

Reference = tuple[Tensor, Tensor]


class InputAdapter(nn.Module, ABC):
    """Maps the features of one task before the flow sees them.

    A subclass takes the number of channels, D, or overrides `build`. A map that is not invertible
    or whose log-determinant is not counted lets training lower the NLL by contracting all patches.

    Attributes:
        name: The name it is registered under.
        needs_statistics: Whether `fit` has to be called before training.

    Shape: (..., D) -> (..., D).
    """

    name: ClassVar[str]
    needs_statistics: ClassVar[bool] = False

    @classmethod
    def build(cls, channels: int, reference: Reference | None) -> Self:
        """Build the adapter of a new task.

        Args:
            channels: Width of the features, D.
            reference: Mean and standard deviation (D,) of the first task's features; None for the
                first task itself.
        """
        return cls(channels)

    @classmethod
    @abstractmethod
    def stacked(cls, adapters: Sequence[Any]) -> nn.Module:
        """The adapters of several tasks as one module, for an exported graph.

        Args:
            adapters: Instances of this class, one for each task.

        Returns:
            A module with `forward(features (B, n, D), index (B,)) -> (B, n, D)` that maps each
            image by the adapter at its index. `flow.stack.Stack` helps to build one.
        """

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Map features to the input of the flow."""

    @abstractmethod
    def log_det(self) -> Tensor:
        """Log-determinant of the map, the same for every patch, ()."""

    @abstractmethod
    def inverse(self, adapted: Tensor) -> Tensor:
        """Undo `forward`; a map without an inverse returns `adapted`."""

    def fit(self, patches: FeatureStatistics) -> None:
        """Take the statistics of a task's training patches; nothing by default."""


ADAPTERS: Registry[type[InputAdapter]] = Registry("adapter")
