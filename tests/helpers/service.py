"""Parts of a service for tests."""

from typing import Any

from moleflow_pl.service.database import Inspection


def an_inspection(**changes: Any) -> Inspection:
    """An inspection of a normal image."""
    values = {
        "time": 1.0, "source": "http", "image_name": "a.png", "product": "b", "label": "normal",
        "score": 1.0, "threshold": 2.0, "normalised_score": 0.25, "novelty_ratio": 0.5,
        "router_distance": 1.0, "router_margin": 3.0, "brightness": 0.5, "image_path": None,
        "heatmap_path": None, "seconds": 0.01, "model": "ab",
    }  # fmt: skip
    made = Inspection(**{**values, **changes})
    names = ("product", "label", "score", "threshold", "normalised_score", "novelty_ratio")
    made.prediction = {name: getattr(made, name) for name in names}
    return made
