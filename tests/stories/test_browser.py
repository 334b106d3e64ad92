"""A person at the service's page, in a real browser: no reload, no message on its console."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.helpers.reviewing import images_of, kept_run
from tests.helpers.serving import Server, serving

CHROMIUM = shutil.which("chromium")
LEAST_CONTRAST = 4.5  # WCAG 2.2, AA
# text whose contrast with what lies behind it is too low
PALE = """(least) => {
  const rgb = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => v / 255).map(
      (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const found = rgb(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  const pale = [];
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !one.checkVisibility() || one.closest("svg, option, .skip")) continue;
    const ink = rgb(getComputedStyle(one).color);
    const pair = [light(ink), light(behind(one))].sort((a, b) => b - a);
    const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (contrast < least) pale.push(`${one.tagName} ${one.textContent.trim()} ${contrast}`);
  }
  return pale;
}"""
# what is wider than the window
WIDE = """() => [...document.querySelectorAll("body *")]
  .filter((one) => one.getBoundingClientRect().right > innerWidth + 1 && one.checkVisibility()
    && !one.closest(".scroll, .skip"))
  .map((one) => one.outerHTML.slice(0, 80))"""
OUTLINE = "() => getComputedStyle(document.activeElement).outlineStyle"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    run = kept_run(tmp_path_factory.mktemp("line") / "run").parent
    with serving(run) as server:
        yield server


@contextmanager
def page_at(
    browser: Browser, server: Server, width: int = 1400, scheme: str = "light"
) -> Iterator[Page]:
    """A page of a new visitor; whatever its console says is a failure."""
    look: Any = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    context = browser.new_context(base_url=server.url, reduced_motion="reduce", **look)
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    assert said == []
    context.close()


def send(server: Server, path: Path) -> int:
    """Inspect an image as a program does."""
    answer = httpx.post(
        f"{server.url}/v1/inspect", params={"name": path.name}, content=path.read_bytes()
    )
    return answer.raise_for_status().json()["id"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_every_page_is_legible_and_fits(
    width: int, scheme: str, browser: Browser, server: Server, data_root: Path, tmp_path: Path
) -> None:
    for kind in ("good", "square"):
        number = send(server, images_of(data_root, "b", kind)[2])
    with page_at(browser, server, width, scheme) as page:
        for place in ("/", f"/inspections/{number}", "/products", "/reviews", "/docs", "/login"):
            page.goto(place)
            page.wait_for_load_state("load")
            name = place.strip("/").replace("/", "-") or "decisions"
            page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
            assert page.evaluate(PALE, LEAST_CONTRAST) == [], place
            assert page.evaluate(WIDE) == [], place
            page.keyboard.press("Tab")
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement !== document.body"):
                assert page.evaluate(OUTLINE) != "none", place
