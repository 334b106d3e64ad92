import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from moleflow_pl.report.figures import (
    cell_style,
    data_uri,
    histogram_figure,
    jpeg_uri,
    mask_picture,
    rates_figure,
    roc_figure,
    scale_gradient,
)


def content(uri: str) -> bytes:
    return base64.b64decode(uri.partition("base64,")[2])


def test_no_figure_searches_a_place_for_its_legend(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the search takes seconds, and matplotlib warns."""

    def searched(*_: object) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr("matplotlib.legend.Legend._find_best_position", searched)
    histogram_figure({"good": [1.0, 2.0], "defective": [3.0]}, "score", {"threshold": 1.5})
    roc_figure({"routed": torch.rand(4)}, torch.tensor([0, 1, 0, 1]))
    rates_figure({"missed defects": [1.0, 0.0]}, [0.001, 0.1], 0.01, 9)


def test_figures_are_svg_that_asks_for_nothing_outside() -> None:
    labels = torch.tensor([0, 1, 0, 1])
    pictures = [
        roc_figure({"routed": torch.rand(4) + 120, "own": torch.rand(4)}, labels),
        histogram_figure({"good": [1.0, 2.0], "defective": []}, "score", {"threshold": 1.5}),
        histogram_figure({"own": [1.0], "other": [float("inf")]}, "distance"),
        rates_figure({"missed defects": [1.0, 0.0]}, [0.001, 0.1], 0.01, 9),
        histogram_figure({"constant": [3.0, 3.0]}, "score"),
    ]
    again = histogram_figure({"constant": [3.0, 3.0]}, "score")
    assert pictures[-1] == again
    for picture in pictures:
        assert picture.startswith("data:image/svg+xml;base64,")
        assert b"</svg>" in content(picture)
        assert b"<image" not in content(picture)


@pytest.mark.parametrize("value", [0.0, 0.3, 0.5, 0.77, 1.0])
def test_cells_are_readable_on_every_shade(value: float) -> None:
    style = dict(part.split(":") for part in cell_style(value).split(";"))

    def luminance(code: str) -> float:
        code = code.strip("#")
        code = code if len(code) == 6 else "".join(2 * c for c in code)
        parts = [int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(style["background"]), luminance(style["color"])))
    assert (high + 0.05) / (low + 0.05) >= 4.5  # WCAG 2.1, AA


def test_cell_without_a_value_is_plain_and_values_beyond_the_scale_are_cut() -> None:
    assert cell_style(None) == ""
    assert cell_style(7.0) == cell_style(1.0)
    assert cell_style(5, 5, 5) == cell_style(1.0)


def test_pictures_keep_their_size_and_masks_stay_black_and_white() -> None:
    picture = mask_picture(torch.eye(4).bool(), (16, 8))
    assert picture.size == (16, 8)
    assert set(np.unique(np.asarray(picture))) == {0, 255}
    assert Image.open(io.BytesIO(content(jpeg_uri(picture)))).size == (16, 8)
    assert data_uri(b"", "png") == "data:image/png;base64,"
    assert scale_gradient().count("#") == 9


def test_histogram_names_each_limit_it_marks() -> None:
    groups = {"good": [1.0, 2.0], "defective": [3.0]}
    # text is drawn as outlines, so that what a limit adds is its line and its name
    plain = histogram_figure(groups, "score")
    one = histogram_figure(groups, "score", {"threshold": 1.5, "best F1": None})
    two = histogram_figure(groups, "score", {"threshold": 1.5, "best F1": 2.5})
    assert len({plain, one, two}) == 3
    assert one == histogram_figure(groups, "score", {"threshold": 1.5})


def test_what_too_few_images_extrapolate_is_marked() -> None:
    shares = {"missed defects": [1.0, 0.0], "false alarms": [0.0, 1.0]}
    few, many = (rates_figure(shares, [0.001, 0.1], 0.01, images) for images in (9, 10**6))
    assert few != many
