import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from moleflow_pl.metrics.task_matrix import matrix_row
from moleflow_pl.metrics.task_scores import EvaluationOptions
from moleflow_pl.report.page import render_page
from moleflow_pl.report.summary import summarise
from moleflow_pl.tasks.schedule import Task
from tests.helpers.scores import COST, SETTINGS, scored, scores_on

ABOUT = {
    "facts": {"seed": "0"},
    "hardware": {"CPU cores": "2"},
    "versions": {"torch": "2"},
    "config": "data:\n  tasks: [a]\n",
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


def page_of(data_root: Path, name: str = "b") -> str:
    scores = scores_on(data_root, ["b"])
    other = scored(1, [0, 1], [1, 1], [1.0, 2.0], masks=False)
    other.options = EvaluationOptions(map_size=48, blur_sigma=0.0)
    tasks = [Task([name], 1, 1), Task(["c"], 1, 1)]
    tasks[0].evaluation = matrix_row([scores], 2, SETTINGS)
    tasks[1].evaluation = matrix_row([scores, other], 2, SETTINGS)
    return render_page(summarise(tasks, COST), [scores, other], ABOUT)


def test_page_is_well_formed_and_holds_all_it_shows(data_root: Path) -> None:
    page = page_of(data_root)
    tags = Tags(page)
    assert not tags.open
    assert tags.scripts == 0
    assert tags.sources
    assert all(source.startswith("data:") for source in tags.sources)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    groups = ("defective, highest scores", "good, highest scores")
    for words in ("image AUROC", "AUPRO", *groups, "forgetting", "CPU cores"):
        assert words in page


def test_nothing_of_a_name_reaches_the_page_unescaped(data_root: Path) -> None:
    page = page_of(data_root, EVIL)
    assert Tags(page).scripts == 0
    assert "&lt;script&gt;" in page


def test_page_of_a_model_whose_images_are_gone_has_dashes() -> None:
    tasks = [Task(["a"], 1, 1)]
    tasks[0].evaluation = matrix_row([], 1, SETTINGS)
    page = render_page(summarise(tasks, COST), [], ABOUT)
    assert "There are no test images any more" in page
    assert not Tags(page).open


@pytest.mark.parametrize("width", [390, 1400])
def test_page_opens_in_a_browser_without_a_complaint(
    width: int, data_root: Path, tmp_path: Path
) -> None:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    # a script asks, since a phone's width cannot be had as a window's
    check = """<script>
      const frame = document.querySelector('iframe');
      frame.onload = () => { const inner = frame.contentDocument;
        const images = [...inner.images];
        document.title = JSON.stringify({all: images.length,
          loaded: images.filter(i => i.complete && i.naturalWidth).length,
          over: inner.documentElement.scrollWidth - frame.clientWidth}); };
    </script>"""
    page = page_of(data_root, EVIL).replace("&", "&amp;").replace('"', "&quot;")
    frame = f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{page}"></iframe>'
    path = tmp_path / "page.html"
    path.write_text(f"<!doctype html><link rel=icon href='data:,'><title>-</title>{frame}{check}")
    result = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1500,1000",
            "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom", path.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in result.stderr
    title = re.search(r"<title>(.*?)</title>", result.stdout)
    assert title is not None
    found = dict(re.findall(r'"(\w+)":(-?\d+)', title[1]))
    assert int(found["all"]) > 10
    assert found["loaded"] == found["all"]
    assert int(found["over"]) <= 0


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
    page = render_page(summarise([task], COST), [scores], about)
    assert evil not in page
    assert page.count("&lt;img src=x onerror") >= 10
    assert all(source.startswith(("data:", "#")) for source in Tags(page).sources)
