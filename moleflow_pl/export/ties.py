"""Patches whose score rounding decides, which no two runtimes need agree on.

A soft projection is on the five nearest vectors of a memory bank. Where the fifth and the sixth are
equally far, the last bit of a feature decides which of them counts, and the score jumps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from moleflow_pl.export.graph import InspectionGraph
from moleflow_pl.export.runtimes import Answers
from moleflow_pl.model.inspector import Inspector
from moleflow_pl.scoring.bank_search import tied
from moleflow_pl.scoring.functional import anomaly_map

NEAR_SCORE = 0.9  # a patch of at least this share of its image's score may count in it


def tied_patches(model: Inspector, features: Tensor, task: int) -> Tensor:
    """Which patches of features (B, h, w, W) have a tie in a memory bank of a task: (B, h, w)."""
    found = torch.zeros(features.shape[:-1], dtype=torch.bool)

    def search(name: str, vectors: Tensor, task: Any, bank: int) -> Tensor:
        found.logical_or_(tied(vectors, model.search_banks(task)[name][bank]))
        return vectors.new_zeros(vectors.shape[:-1])

    model.patch_scores(features, task, search)
    return found


def settled(
    actual: Answers, expected: Answers, patches: Tensor, ties: Tensor, graph: InspectionGraph
) -> Answers:
    """The answers of a file, with those of the model where a tie decides.

    Args:
        actual: Of the file.
        expected: Of the model.
        patches: Patch scores of the model (B, h, w).
        ties: Which of them have a tie (B, h, w), bool.
        graph: The graph in the file.
    """
    touched = anomaly_map(ties.float(), **graph.map_options) > 0
    counted = (ties & (patches >= NEAR_SCORE * expected["score"][:, None, None])).any(2).any(1)
    return {
        **actual,
        "map": torch.where(touched, expected["map"], actual["map"]),
        "score": torch.where(counted, expected["score"], actual["score"]),
    }
