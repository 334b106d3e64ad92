import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from moleflow_pl.metrics.good_images import GoodImages
from moleflow_pl.metrics.task_matrix import matrix_row
from moleflow_pl.metrics.task_scores import EvaluationOptions
from moleflow_pl.report.gallery import SuspectImage
from moleflow_pl.report.not_evaluated import NOT_EVALUATED, NOT_TESTED
from moleflow_pl.report.page import environment, render_page
from moleflow_pl.report.summary import summarise
from moleflow_pl.tasks.schedule import Task
from tests.helpers.scores import (
    CALIBRATED,
    COST,
    SETTINGS,
    THRESHOLD,
    decided,
    learned_tasks,
    scored,
    scores_on,
    untested_tasks,
)

ABOUT = {
    "facts": {"seed": "0"},
    "hardware": {"CPU cores": "2"},
    "versions": {"torch": "2"},
    "config": "data:\n  tasks: [a]\n",
    "next": {"go on": "moleflow predict"},
    "left_out": {},
}
EVIL = "<script>document.title='caught'</script>\"'&"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Tags(HTMLParser):
    """Counts tags and keeps what they point to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.scripts = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.sources += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(data_root: Path, name: str = "b", threshold: float = THRESHOLD) -> str:
    scores = scores_on(data_root, ["b"], threshold)
    other = scored(1, [0, 1], [1, 1], [1.0, 2.0], masks=False)
    other.options = EvaluationOptions(map_size=48, blur_sigma=0.0)
    tasks = [Task([name], 1, 1, calibration=CALIBRATED), Task(["c"], 1, 1)]
    calibrations = [CALIBRATED, None]
    tasks[0].evaluation = matrix_row([scores], 1, SETTINGS, calibrations)
    tasks[1].evaluation = matrix_row([scores, other], 2, SETTINGS, calibrations)
    return render_page(summarise(tasks, COST), [scores, other], ABOUT, {name: CALIBRATED})


def test_page_is_well_formed_and_holds_all_it_shows(data_root: Path) -> None:
    page = page_of(data_root)
    tags = Tags(page)
    assert not tags.open
    assert tags.scripts == 0
    assert tags.sources
    assert all(source.startswith("data:") for source in tags.sources)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    groups = ("found, labelled anomalous", "missed, labelled normal", "false alarms, labelled")
    decisions = ("recall", "precision", "unknown product", "Wilson", "by the test labels")
    for words in ("image AUROC", "AUPRO", *groups, *decisions, "forgetting", "CPU cores"):
        assert words in page


def test_nothing_of_a_name_reaches_the_page_unescaped(data_root: Path) -> None:
    page = page_of(data_root, EVIL)
    assert Tags(page).scripts == 0
    assert "&lt;script&gt;" in page


def test_page_says_where_nothing_is_missed(data_root: Path) -> None:
    assert "missed, labelled normal: none of 3 defective images" in page_of(
        data_root, threshold=0.5
    )
    assert "missed, labelled normal: 3 of 3 defective images" in page_of(data_root, threshold=9.0)


def test_page_of_a_model_whose_images_are_gone_says_so_and_has_no_dashes() -> None:
    tasks = [Task(["a"], 1, 1)]
    tasks[0].evaluation = matrix_row([], 1, SETTINGS)
    about = {**ABOUT, "left_out": {"a": NOT_EVALUATED}}
    page = render_page(summarise(tasks, COST), [], about, {})
    assert f"<p>{NOT_EVALUATED.capitalize()}: a.</p>" in page
    assert "neither test images nor calibration images" in page
    assert "<td>-" not in page.replace("<td>-</td></tr>\n      <tr><td>shared", "")
    assert not Tags(page).open


def test_page_of_good_images_after_tested_products_judges_by_the_last_evaluation() -> None:
    tasks = learned_tasks()
    good_images = GoodImages(training=5, calibration=3, routed=[0, 3], halves=None)
    calibrations = [CALIBRATED, CALIBRATED]
    tasks[1].evaluation = matrix_row([], 2, SETTINGS, calibrations, good_images={1: good_images})
    tasks[1].calibration = CALIBRATED
    about = {**ABOUT, "left_out": {"a": NOT_TESTED}}
    page = render_page(summarise(tasks, COST), [], about, {"b": CALIBRATED})
    assert f"<p>{NOT_TESTED.capitalize()}: a.</p>" in page
    assert "Good images" in page
    for absent in (
        "<b>-", "<td>mean</td>", "average -", "has a threshold: fit", "<h2>Routing</h2>",
        "<h2>Decisions</h2>", 'class="tiles"',
    ):  # fmt: skip
        assert absent not in page
    assert "<h2>Task matrix</h2>" in page  # what was measured before stays
    assert not Tags(page).open


@pytest.mark.parametrize("looks_defective", [False, True])
def test_page_asks_to_look_at_good_images_only_if_some_look_defective(
    looks_defective: bool, data_root: Path
) -> None:
    path = str(data_root / "b" / "train" / "good" / "000.png")
    rest = (path, "000.png", "a", 3.0, CALIBRATED.limits(), torch.zeros(12, 12))
    suspects = [SuspectImage("calibration", looks_defective, *rest)]
    page = render_page(summarise(untested_tasks(), COST), [], ABOUT, {}, suspects)
    assert "Good images with the highest scores" in page
    assert ("Look at these before you trust a threshold" in page) == looks_defective
    assert ("none of these stands out" in page) != looks_defective
    assert not Tags(page).open


def test_table_of_tasks_tells_no_test_images_from_images_that_are_not_found() -> None:
    tasks = learned_tasks()
    scores = scored(1, [0, 1], [1, 1], [2.0, 1.0], masks=False)
    tasks[1].evaluation = matrix_row([scores], 2, SETTINGS)
    summary = summarise(tasks, COST)
    page = render_page(summary, [scores], {**ABOUT, "left_out": {"a": NOT_TESTED}}, {})
    assert f">{NOT_TESTED}</td>" in page
    assert '">0</td>' in page  # b's images that went to a
    assert page.count('">2</td>') == 1
    routing = page.partition("<h2>Routing</h2>")[2]
    assert re.search(r"<tr><th>a</th>\s*(<td></td>\s*)+</tr>", routing)
    assert ">no test images</td>" in render_page(summary, [scores], ABOUT, {})


def good_images_page(name: str = "a") -> str:
    tasks = untested_tasks()
    tasks[0].products = [name]
    return render_page(summarise(tasks, COST), [], ABOUT, {name: CALIBRATED})


def test_page_of_good_images_alone_says_what_is_known_and_has_no_dashes() -> None:
    page = good_images_page(EVIL)
    tags = Tags(page)
    assert not tags.open
    assert tags.scripts == 0
    assert "<td>-" not in page
    assert "<b>-" not in page
    for absent in (
        "each image was inspected",
        "each\ntest image",
        "AUROC",
        "Gallery",
        "Task matrix",
    ):
        assert absent not in page
    for words in (
        "27",
        "2 of 3",
        "0.90 apart",
        "extrapolated:<br>99 images are enough",
        "moleflow predict",
    ):
        assert words in page
    assert any(source.startswith("data:image/svg") for source in tags.sources)


def test_task_without_test_images_beside_one_with_some_is_named_and_not_dashed() -> None:
    tasks = untested_tasks()
    scores = scored(0, [0, 1], [0, 0], [1.0, 2.0], decisions=decided([1.0, 2.0], 1.5))
    good_images = {1: tasks[1].evaluation["good_images"][1]}
    tasks[1].evaluation = matrix_row(
        [scores], 2, SETTINGS, [CALIBRATED, None], good_images=good_images
    )
    page = render_page(summarise(tasks, COST), [scores], ABOUT, {"a": CALIBRATED})
    assert page.count("no test images") == 1
    assert not Tags(page).open


# asks the page itself, in a frame: a phone's width cannot be had as a window's
CHECK = """<script>
  const frame = document.querySelector('iframe');
  frame.onload = () => { const inner = frame.contentDocument;
    const images = [...inner.images];
    document.title = btoa(JSON.stringify({
      images: images.length,
      missing: images.filter(i => !(i.complete && i.naturalWidth)).length,
      over: inner.documentElement.scrollWidth - frame.clientWidth,
      scripts: inner.scripts.length,
      unstyled: getComputedStyle(frame.contentDocument.body).fontFamily === getComputedStyle(
        document.body).fontFamily,
      mode: inner.compatMode,
      title: inner.title})); };
</script>"""


def opened(page: str, width: int, folder: Path) -> dict:
    """What Chromium finds of a page that it shows at some width."""
    escaped = page.replace("&", "&amp;").replace('"', "&quot;")
    frame = f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{escaped}"></iframe>'
    path = folder / "page.html"
    path.write_text(f"<!doctype html><link rel=icon href='data:,'><title>-</title>{frame}{CHECK}")
    result = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={folder / 'profile'}", "--window-size=1500,1000",
            "--virtual-time-budget=5000", "--dump-dom", path.as_uri(),
        ],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", result.stdout)
    assert title is not None
    return json.loads(base64.b64decode(title[1]))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1400])
def test_page_opens_in_a_browser_with_all_its_pictures_and_within_its_width(
    width: int, data_root: Path, tmp_path: Path
) -> None:
    found = opened(page_of(data_root, EVIL), width, tmp_path)
    assert found["images"] > 10
    assert found["missing"] == 0
    assert found["over"] <= 0
    assert found["scripts"] == 0
    assert found["mode"] == "CSS1Compat"
    assert not found["unstyled"]
    assert found["title"] != "caught"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [390, 1400])
def test_page_of_good_images_alone_opens_within_its_width(width: int, tmp_path: Path) -> None:
    found = opened(good_images_page(EVIL), width, tmp_path)
    assert (found["missing"], found["scripts"]) == (0, 0)
    assert found["over"] <= 0


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_browser_would_notice_what_is_wrong_with_a_page(data_root: Path, tmp_path: Path) -> None:
    wrong = (
        "<script>document.title = 'caught'</script><div style='width:3000px'>x</div>"
        "<img src='data:image/png;base64,AAAA'><img src='gone.png'></body>"
    )
    found = opened(page_of(data_root).replace("</body>", wrong), 390, tmp_path)
    assert found["missing"] == 2
    assert found["over"] > 2000
    assert (found["scripts"], found["title"]) == (1, "caught")


def test_nothing_of_a_file_or_folder_is_markup(data_root: Path, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    scores = scores_on(data_root, ["b"])
    for i, row in enumerate(scores.rows):
        path = tmp_path / f"{evil}{i}.png"
        shutil.copy(row["path"], path)
        row |= {"path": str(path), "product": f"{evil}p", "defect": f"{evil}d", "routed_task": 0}
    task = Task([evil], 1, 1)
    task.evaluation = matrix_row([scores], 1, SETTINGS)
    about = {**ABOUT, "facts": {evil: evil}, "config": f"root: {evil}</pre>"}
    page = render_page(summarise([task], COST), [scores], about, {})
    assert evil not in page
    assert page.count("&lt;img src=x onerror") >= 10
    assert all(source.startswith(("data:", "#")) for source in Tags(page).sources)


def test_a_name_in_a_page_holds_no_control_character_or_turn() -> None:
    template = environment().from_string("{{ name }} {{ number }}")
    assert template.render(name="a\x1b[31m\u202e", number=1) == r"a\x1b[31m\u202e 1"
