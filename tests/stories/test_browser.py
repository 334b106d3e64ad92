"""A person at the service's page, in a real browser: no reload, no message on its console."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from tests.helpers.reviewing import images_of, kept_run
from tests.helpers.serving import Server, serving

CHROMIUM = shutil.which("chromium")
LEAST_CONTRAST = 4.5  # WCAG 2.2, AA
LEARNING = 180_000  # ms
PLACES = ("/products", "/reviews", "/service", "/docs", "/login")
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
# press "undo" in the moment in which the answer to a review is put into the page
UNDO_AT_ONCE = """() => {
  const review = document.querySelector("#review");
  const watcher = new MutationObserver(() => {
    const undo = review.querySelector("[data-key=u]");
    if (undo) { watcher.disconnect(); undo.click(); }
  });
  watcher.observe(review, { childList: true });
}"""
OUTLINE = "() => getComputedStyle(document.activeElement).outlineStyle"

expect.set_options(timeout=30_000)  # ms; a busy machine is slow

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


def mark(page: Page) -> None:
    """Note something in the open page, which a reload would forget."""
    page.evaluate("window.opened = true")


def is_the_same(page: Page) -> bool:
    return page.evaluate("window.opened === true")


def send(server: Server, path: Path) -> int:
    """Inspect an image as a program does."""
    answer = httpx.post(
        f"{server.url}/v1/inspect", params={"name": path.name}, content=path.read_bytes()
    )
    return answer.raise_for_status().json()["id"]


def test_a_shift_at_the_page(browser: Browser, server: Server, data_root: Path) -> None:
    good, bad = images_of(data_root, "b", "good"), images_of(data_root, "b", "square")
    with page_at(browser, server) as page:
        page.goto("/")
        mark(page)
        expect(page.get_by_text("No decision yet.")).to_be_visible()
        # a person brings an image, and a program another
        page.get_by_label("Inspect images").set_input_files(bad[0])
        page.get_by_role("button", name="Inspect", exact=True).click()
        expect(page.locator(".card")).to_have_count(1)
        assert page.get_by_label("Inspect images").input_value() == ""
        *_, second, newest = [send(server, path) for path in (*good[:2], bad[1])]
        expect(page.locator(".card")).to_have_count(4)
        assert is_the_same(page)
        page.get_by_label("Decision").select_option(label="anomalous")
        expect(page.locator(".card .label.normal")).to_have_count(0)
        page.get_by_label("Decision").select_option(label="all")
        expect(page.locator(".card")).to_have_count(4)
        review_by_hand_and_by_keyboard(page, newest, second)
        apply(page, server)
        learn(page, server, sorted((data_root / "c" / "train" / "good").glob("*.png")))


def review_by_hand_and_by_keyboard(page: Page, newest: int, second: int) -> None:
    """The newest is a defect; the one before it is good, whatever the model says."""
    page.get_by_label("Reviewer").fill("Ann <b>")
    page.get_by_label("Reviewer").blur()
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert page.evaluate(OUTLINE) == "solid"
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/inspections/{newest}")
    mark(page)
    page.get_by_label("Opacity of the heatmap").fill("40")
    assert page.locator("#map").evaluate("one => one.style.opacity") == "0.4"
    right = page.get_by_role("button", name="Right")
    right.click()
    expect(right).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#review")).to_contain_text("Right, by Ann <b>")
    page.keyboard.press("u")
    expect(page.locator("#review .undone")).to_have_count(1)
    page.keyboard.press("1")
    expect(right).to_have_attribute("aria-pressed", "true")
    assert is_the_same(page)
    page.keyboard.press("ArrowRight")
    page.wait_for_url(f"**/inspections/{second}")
    normal = page.locator("h1 .label.normal").count()
    page.keyboard.press("1" if normal else "2")  # it is a good one
    verdict = "Right" if normal else "False alarm"
    expect(page.locator("#review")).to_contain_text(f"{verdict}, by Ann <b>")


def apply(page: Page, server: Server) -> None:
    """Look at what the reviews would change, and apply them."""
    before = httpx.get(f"{server.url}/v1/products").json()["model"]
    page.get_by_role("link", name="Reviews").click()
    mark(page)
    page.get_by_role("button", name="What would change?").click()
    expect(page.locator("#preview")).to_contain_text("b: 1 more good images", timeout=LEARNING)
    page.get_by_role("button", name="Apply").click()
    expect(page.locator("#preview")).to_contain_text("Applied: b", timeout=LEARNING)
    assert is_the_same(page)
    model_changes(page, server, before)


def learn(page: Page, server: Server, images: list[Path]) -> None:
    """Have a product learned, and find it in use."""
    before = httpx.get(f"{server.url}/v1/products").json()["model"]
    page.get_by_role("link", name="Products").click()
    mark(page)
    page.get_by_label("Name").fill("c")
    page.get_by_label("Good images").set_input_files(images)
    page.get_by_role("button", name="Learn it").click()
    expect(page.locator("#jobs")).to_contain_text("c: ")
    expect(page.locator("#jobs")).to_contain_text("c: learned", timeout=LEARNING)
    assert is_the_same(page)
    model_changes(page, server, before)
    products = httpx.get(f"{server.url}/v1/products").json()["products"]
    assert [one["name"] for one in products] == ["01", "b", "c"]


def test_a_decision_between_the_page_and_its_stream_is_shown(
    browser: Browser, server: Server, data_root: Path
) -> None:
    image = images_of(data_root, "b", "good")[0]
    with page_at(browser, server) as page:
        sent = []

        def late(route: Route) -> None:
            sent.append(send(server, image))
            route.continue_()

        page.route("**/events*", late)
        with page.expect_response("**/events*"):
            page.goto("/")
        expect(page.locator(f".card[href='/inspections/{sent[0]}']")).to_be_visible()


def test_a_refresh_leaves_the_focused_decision_alone_and_comes_after_it(
    browser: Browser, server: Server, data_root: Path
) -> None:
    image = images_of(data_root, "b", "good")[0]
    first = send(server, image)
    with page_at(browser, server) as page:
        page.goto("/")
        card = page.locator(f".card[href='/inspections/{first}']")

        def focused_meanwhile(route: Route) -> None:
            card.focus()
            route.continue_()

        page.route("**/stream*", focused_meanwhile, times=1)
        with page.expect_response("**/stream*"):
            second = send(server, image)
        newer = page.locator(f".card[href='/inspections/{second}']")
        expect(card).to_be_focused()
        assert newer.count() == 0
        page.get_by_label("Reviewer").focus()
        expect(newer).to_be_visible()


def test_a_button_works_as_soon_as_it_is_there(
    browser: Browser, server: Server, data_root: Path
) -> None:
    number = send(server, images_of(data_root, "b", "square")[0])
    with page_at(browser, server) as page:
        page.goto(f"/inspections/{number}")
        mark(page)
        page.evaluate(UNDO_AT_ONCE)
        page.get_by_role("button", name="Right").click()
        expect(page.locator("#review .undone")).to_have_count(1)
        assert is_the_same(page)


def model_changes(page: Page, server: Server, before: str) -> None:
    for _ in range(600):
        if httpx.get(f"{server.url}/v1/products").json()["model"] != before:
            return
        page.wait_for_timeout(100)
    raise AssertionError("the model is still the same")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_every_page_is_legible_and_fits(
    width: int, scheme: str, browser: Browser, server: Server, data_root: Path, tmp_path: Path
) -> None:
    for kind in ("good", "square"):
        number = send(server, images_of(data_root, "b", kind)[2])
    with page_at(browser, server, width, scheme) as page:
        for place in ("/", f"/inspections/{number}", *PLACES):
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
