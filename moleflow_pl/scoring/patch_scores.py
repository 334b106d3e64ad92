"""Anomaly scores of patches: choices behind one signature.

Each asks a flow for latents, be it the model's or the stacked one of an exported graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from moleflow_pl.scoring.functional import patch_nll, patch_norm
from moleflow_pl.scoring.memory_bank import to_half_clamped

ScoreName = Literal["nll", "norm", "bank", "depths"]
Nearest = Callable[[Tensor, Any], Tensor]


class Flow(Protocol):
    """What a score asks of a flow; `task` is one, or one for each image."""

    def __call__(self, features: Tensor, task: Any, /) -> tuple[Tensor, Tensor]:
        """Latent and log-determinant."""

    def encode_half(self, features: Tensor, task: Any, /) -> Tensor:
        """Latents behind the first half of the blocks."""

    def finish(self, encode_half: Tensor, task: Any, /) -> Tensor:
        """What those become behind the other half."""


class PatchScore(ABC):
    """How anomalous a patch is, by the latents of its product's expert."""

    name: ClassVar[str]

    @abstractmethod
    def __call__(self, flow: Flow, features: Tensor, task: Any, nearest: Nearest) -> Tensor:
        """Scores (B, h, w) of features with position (B, h, w, D).

        Args:
            flow: Gives their latents.
            features: With position.
            task: Whose expert, in the form that the flow and `nearest` know it by.
            nearest: Distance (B, h, w) of latents to the nearest of a task's `compared`, for a
                `BankScore`.
        """


class NllScore(PatchScore):
    """The negative log-likelihood; see `patch_nll`."""

    name = "nll"

    def __call__(self, flow: Flow, features: Tensor, task: Any, nearest: Nearest) -> Tensor:
        """In nats."""
        return patch_nll(*flow(features, task))


class NormScore(PatchScore):
    """The latent's norm, which keeps nothing of a product beside its expert; see `patch_norm`."""

    name = "norm"

    def __call__(self, flow: Flow, features: Tensor, task: Any, nearest: Nearest) -> Tensor:
        """As a distance."""
        return patch_norm(flow(features, task)[0])


class BankScore(PatchScore):
    """The distance to the nearest kept latent of the product; see `LatentBank`.

    Better than the norm on each of three real products and two backbones (ACCURACY.md and
    docs/accuracy_vit.md, latents stored against none).
    """

    name = "bank"

    def __call__(self, flow: Flow, features: Tensor, task: Any, nearest: Nearest) -> Tensor:
        """As a distance."""
        return nearest(self.compared(flow, self.kept(flow, features, task), task), task)

    def kept(self, flow: Flow, features: Tensor, task: Any) -> Tensor:
        """Latents (B, h, w, D) of which some are kept: those at the flow's end."""
        return flow(features, task)[0]

    def compared(self, flow: Flow, kept: Tensor, task: Any) -> Tensor:
        """The latents (..., C) that are compared, of those that are kept (..., D): the same."""
        return kept


class TwoDepthBankScore(BankScore):
    """The same half-way through the flow and at its end at once.

    On a ViT half-way shows better where defects are than the end does (BENCHMARKS.md, What each
    default is worth). Those half-way alone are kept: what they become, the flow says.
    """

    name = "depths"

    def kept(self, flow: Flow, features: Tensor, task: Any) -> Tensor:
        """Latents half-way."""
        return flow.encode_half(features, task)

    def compared(self, flow: Flow, kept: Tensor, task: Any) -> Tensor:
        """Latents at both depths (..., 2 D), in the precision of those that are kept."""
        end = flow.finish(kept, task)
        return torch.cat((kept, to_half_clamped(end) if kept.dtype == torch.half else end), -1)


SCORES: dict[str, type[PatchScore]] = {
    score.name: score for score in (NllScore, NormScore, BankScore, TwoDepthBankScore)
}
