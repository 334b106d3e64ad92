import re
from xml.etree import ElementTree

from moleflow_pl.service.score_history import HEIGHT, score_history
from tests.helpers.service import an_inspection

SVG = "{http://www.w3.org/2000/svg}"


def drawn(inspections: list, here: int = 1) -> ElementTree.Element:
    text = str(score_history(inspections, here)).replace(
        "<svg ", '<svg xmlns="http://www.w3.org/2000/svg" '
    )
    return ElementTree.fromstring(text)


def test_each_decision_has_a_shape_of_its_own_and_leads_to_its_page() -> None:
    labels = ("normal", "anomalous", "unknown_product", None)
    root = drawn([an_inspection(id=i, label=label) for i, label in enumerate(labels, start=1)])
    links = root.findall(f"{SVG}a")
    assert [link.get("href") for link in links] == [f"/inspections/{i}" for i in range(1, 5)]
    marks = [link[0] for link in links]
    assert [mark.tag.removeprefix(SVG) for mark in marks] == ["circle", "path", "rect", "circle"]
    titles = [link[0][0].text for link in links]
    assert titles == ["1, normal", "1, anomalous", "1, unknown product", "1, no decision"]
    assert [mark.get("class") for mark in marks] == [
        "point normal here", "point anomalous", "point unknown_product", "point none",
    ]  # fmt: skip


def test_higher_scores_stand_higher_and_the_threshold_between() -> None:
    scores = (1.0, 9.0, 3.0)
    root = drawn([an_inspection(id=i, score=s, threshold=5.0) for i, s in enumerate(scores)])
    heights = [float(mark.get("cy", "")) for mark in root.iter(f"{SVG}circle")]
    assert heights[1] < heights[2] < heights[0]
    line = root.find(f"{SVG}line")
    assert line is not None
    assert heights[1] < float(line.get("y1", "")) < heights[2]
    assert all(0 < height < HEIGHT for height in heights)


def test_scores_that_are_all_alike_or_no_number_are_drawn() -> None:
    for score in (2.0, None):
        root = drawn([an_inspection(id=i, score=score, threshold=None) for i in range(3)])
        assert len(list(root.iter(f"{SVG}circle"))) == 3
        assert root.find(f"{SVG}line") is None


def test_drawing_has_no_style_of_its_own() -> None:
    """A content security policy forbids it."""
    text = str(score_history([an_inspection(id=1)], 1))
    assert not re.search(r"style|script|\son\w+=", text)


def test_one_high_score_does_not_hide_how_near_others_are_to_the_threshold() -> None:
    scores = (1.0, 2.0, 1000.0)
    root = drawn([an_inspection(id=i, score=s, threshold=3.0) for i, s in enumerate(scores)])
    first, second, high = (float(mark.get("cy", "")) for mark in root.iter(f"{SVG}circle"))
    assert first - second > HEIGHT / 8
    assert 0 < high < second
