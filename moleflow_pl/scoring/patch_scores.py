"""Anomaly scores of patches, behind one signature.

A score asks a flow for latents: that of a model, or the stacked one of an exported graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from moleflow_pl._internal.registry import Registry
from moleflow_pl.scoring.functional import patch_nll, patch_norm
from moleflow_pl.scoring.memory_bank import to_half_clamped

BankSearch = Callable[[Tensor, Any], Tensor]


class Flow(Protocol):
    """What a score needs of a flow; `task` is one task, or one for each image."""

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
    def __call__(self, flow: Flow, features: Tensor, task: Any, search: BankSearch) -> Tensor:
        """Scores (B, h, w) of features with position (B, h, w, D); higher is more anomalous.

        Args:
            flow: Gives the latents.
            features: Features with position.
            task: The task, or one for each image, in the form that `flow` and `search` take.
            search: Distances (B, h, w) of latents (B, h, w, C) to their soft projections on a
                task's memory bank; for a `BankScore`.
        """


PATCH_SCORES: Registry[type[PatchScore]] = Registry("score")


@PATCH_SCORES.add("nll")
class NllScore(PatchScore):
    """The negative log-likelihood; see `patch_nll`."""

    def __call__(self, flow: Flow, features: Tensor, task: Any, search: BankSearch) -> Tensor:
        """In nats."""
        return patch_nll(*flow(features, task))


@PATCH_SCORES.add("norm")
class NormScore(PatchScore):
    """The norm of the latent, which needs no memory bank; see `patch_norm`."""

    def __call__(self, flow: Flow, features: Tensor, task: Any, search: BankSearch) -> Tensor:
        """As a distance."""
        return patch_norm(flow(features, task)[0])


@PATCH_SCORES.add("bank")
class BankScore(PatchScore):
    """The distance to the soft projection on the task's memory bank; see `MemoryBank`."""

    def __call__(self, flow: Flow, features: Tensor, task: Any, search: BankSearch) -> Tensor:
        """As a distance."""
        return search(self.expand(flow, self.encode(flow, features, task), task), task)

    def encode(self, flow: Flow, features: Tensor, task: Any) -> Tensor:
        """Latents (B, h, w, D) in the form that the memory bank stores: at the end of the flow."""
        return flow(features, task)[0]

    def expand(self, flow: Flow, latent: Tensor, task: Any) -> Tensor:
        """The vectors (..., C) between which distances are measured, from latents (..., D)."""
        return latent


@PATCH_SCORES.add("depths")
class TwoDepthBankScore(BankScore):
    """The distance in the latents of two depths joined: after half of the flow, and at its end.

    The memory bank stores latents after half of the flow; the second half follows from them.
    """

    def encode(self, flow: Flow, features: Tensor, task: Any) -> Tensor:
        """Latents after the first half of the flow."""
        return flow.encode_half(features, task)

    def expand(self, flow: Flow, latent: Tensor, task: Any) -> Tensor:
        """Latents at both depths (..., 2 D), in the precision of `latent`."""
        end = flow.finish(latent, task)
        return torch.cat((latent, to_half_clamped(end) if latent.dtype == torch.half else end), -1)
