"""Anomaly scores of patches, behind one signature.

A score gets latents from a flow: that of a model, or the stacked one of an exported graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from moleflow_pl._internal.registry import Registry
from moleflow_pl.scoring.functional import patch_nll, patch_norm

# vectors (B, h, w, C), the task, and the number of the bank -> distances (B, h, w)
BankSearch = Callable[[Tensor, Any, int], Tensor]


@dataclass(frozen=True)
class PatchFeatures:
    """The features of a batch, as input of a score.

    Attributes:
        joined: Input of the flow: the groups of layers joined, position added (B, h, w, D).
        groups: Returns each group separately, normalised, without position (B, h, w, C).
    """

    joined: Tensor
    groups: Callable[[], list[Tensor]]


class Flow(Protocol):
    """What a score needs from a flow; `task` is one task, or one for each image."""

    def __call__(self, features: Tensor, task: Any, /) -> tuple[Tensor, Tensor]:
        """Latent (B, h, w, D) and log-determinant (B, h, w)."""

    def encode_half(self, features: Tensor, task: Any, /) -> Tensor:
        """Latents (B, h, w, D) after the first half of the blocks."""

    def finish(self, latent: Tensor, task: Any, /) -> Tensor:
        """Pass the result of `encode_half` through the second half."""


class PatchScore(ABC):
    """How anomalous a patch is, by its latent from the expert of a task."""

    name: ClassVar[str]

    @abstractmethod
    def __call__(
        self, flow: Flow, features: PatchFeatures, task: Any, search: BankSearch
    ) -> Tensor:
        """Scores (B, h, w) of a batch; higher is more anomalous.

        Args:
            flow: Computes the latents.
            features: The features, joined for the flow and by group of layers.
            task: The task, or one for each image, in the form that `flow` and `search` take.
            search: Distances (B, h, w) of vectors (B, h, w, C) to their soft projections on one of
                a task's memory banks; for a `BankScore`.
        """


PATCH_SCORES: Registry[type[PatchScore]] = Registry("score")


@PATCH_SCORES.add("nll")
class NllScore(PatchScore):
    """The negative log-likelihood; see `patch_nll`."""

    def __call__(
        self, flow: Flow, features: PatchFeatures, task: Any, search: BankSearch
    ) -> Tensor:
        """In nats."""
        return patch_nll(*flow(features.joined, task))


@PATCH_SCORES.add("norm")
class NormScore(PatchScore):
    """The norm of the latent, which needs no memory bank; see `patch_norm`."""

    def __call__(
        self, flow: Flow, features: PatchFeatures, task: Any, search: BankSearch
    ) -> Tensor:
        """As a distance."""
        return patch_norm(flow(features.joined, task)[0])


class BankScore(PatchScore):
    """The distance to the soft projection on a memory bank, summed over banks.

    A subclass defines what the banks hold; see `MemoryBank`.
    """

    def __call__(
        self, flow: Flow, features: PatchFeatures, task: Any, search: BankSearch
    ) -> Tensor:
        """As a distance."""
        distances = [
            search(self.expand(flow, vectors, task), task, bank)
            for bank, vectors in enumerate(self.encode(flow, features, task))
        ]
        return torch.stack(distances).sum(0)

    @abstractmethod
    def encode(self, flow: Flow, features: PatchFeatures, task: Any) -> list[Tensor]:
        """Vectors (B, h, w, C) in the form that each memory bank stores."""

    def expand(self, flow: Flow, vectors: Tensor, task: Any) -> Tensor:
        """Expand stored vectors to those whose distances are measured."""
        derived = self.derive_channels(flow, vectors, task)
        return vectors if derived is None else torch.cat((vectors, derived), -1)

    def derive_channels(self, flow: Flow, vectors: Tensor, task: Any) -> Tensor | None:
        """Channels (..., E) that follow from stored vectors, and are compared too."""
        return None


@PATCH_SCORES.add("bank")
class LatentBankScore(BankScore):
    """The distance in the latents at the end of the flow."""

    def encode(self, flow: Flow, features: PatchFeatures, task: Any) -> list[Tensor]:
        """Latents at the end of the flow."""
        return [flow(features.joined, task)[0]]


@PATCH_SCORES.add("depths")
class TwoDepthBankScore(BankScore):
    """The distance in the latents of two depths joined: after half of the flow, and at its end.

    The memory bank stores latents after half of the flow; the second half follows from them.
    """

    def encode(self, flow: Flow, features: PatchFeatures, task: Any) -> list[Tensor]:
        """Latents after the first half of the flow."""
        return [flow.encode_half(features.joined, task)]

    def derive_channels(self, flow: Flow, vectors: Tensor, task: Any) -> Tensor:
        """Latents at the end of the flow."""
        return flow.finish(vectors, task)


@PATCH_SCORES.add("groups")
class GroupBankScore(BankScore):
    """The sum of the distances in the features of each group of layers, before the flow.

    Each group has a memory bank: a defect may show at one depth of the backbone alone, and the
    larger norms of another would hide it.
    """

    def encode(self, flow: Flow, features: PatchFeatures, task: Any) -> list[Tensor]:
        """Features of each group, normalised."""
        return features.groups()
