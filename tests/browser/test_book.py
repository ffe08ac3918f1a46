"""Browser tests of the built book: every page opens offline, without an error, and its figures move.

`make test` builds the book before. Chromium is driven by Playwright; each page is served from this machine, every
request to another one is refused and recorded, and the test fails if there was any.
"""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HTML = Path(os.environ.get("UNIFORGET_BOOK", ROOT / "_build" / "html"))
SHOTS = Path(os.environ.get("UNIFORGET_SCREENSHOTS", ROOT / "_build" / "screenshots"))
CI = os.environ.get("CI") == "true"
BROWSERS = (os.environ.get("UNIFORGET_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in BROWSERS if name and (path := shutil.which(name))), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
PAGES = sorted(
    path.relative_to(HTML).as_posix()
    for path in HTML.rglob("*.html")
    if not {"_static", "_sources"} & set(path.parts) and path.name not in {"genindex.html", "search.html"}
)
# Thebe's loader is included twice by the theme and says so; nothing depends on it.
HARMLESS = re.compile(r"THEBE_JS_URL")
TOUR = "notebooks/00_tour.html"

# Everything that a plotly figure draws, without its slider and its hover layer. Before each look the figure is left
# alone until two readings agree, so that an animation has ended.
DRAWN = """graph => [...graph.querySelectorAll(
    'g.cartesianlayer, g.layer-below, g.imagelayer, g.g-gtitle, g.annotation, g.polarlayer')]
    .map(node => node.outerHTML).join('')"""


def pytest_generate_tests(metafunc):
    if "page_path" in metafunc.fixturenames:
        pages = [
            name for name in PAGES if name != "index.html" or metafunc.function is test_page_is_clean_and_accessible
        ]
        metafunc.parametrize("page_path", pages or ["index.html"])


@pytest.fixture(scope="module")
def base():
    """Address of a server for the built book, on this machine only."""
    if not (HTML / "index.html").is_file():
        message = f"no built book in {HTML}: run `make book` first"
        pytest.fail(message) if CI or os.environ.get("UNIFORGET_REQUIRE_BOOK") else pytest.skip(message)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(HTML)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser(base):
    if CHROMIUM is None:
        message = "Chromium is missing and could not be installed (Debian: apt-get install chromium)"
        pytest.fail(message) if CI else pytest.skip(message)
    sync_api = pytest.importorskip("playwright.sync_api") if not CI else __import__("playwright.sync_api").sync_api
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


class Watched:
    """A page and everything that went wrong on it."""

    def __init__(self, browser, base, **options):
        self.base = base
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.external: list[str] = []
        self.missing: list[str] = []
        self.context.route("**/*", self._route)
        self.page.on("pageerror", lambda error: self._error(f"page error: {error}"))
        self.page.on("console", lambda line: line.type == "error" and self._error(f"console: {line.text}"))
        self.page.on("response", self._response)

    def _route(self, route):
        url = route.request.url
        if url.startswith((self.base, "data:", "blob:")):
            route.continue_()
        else:
            self.external.append(url)
            route.abort()

    def _error(self, text):
        if not HARMLESS.search(text):
            self.errors.append(text)

    def _response(self, response):
        if response.status >= 400 and not response.url.endswith("/favicon.ico"):
            self.missing.append(f"{response.status} {response.url}")

    def open(self, path: str):
        self.page.goto(self.base + path, wait_until="load")
        self.page.wait_for_load_state("networkidle")
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('.plotly-graph-div')].every(g => g.querySelector('.main-svg'))",
            timeout=30_000,
        )
        return self.page

    def complaints(self) -> dict[str, list[str]]:
        found = {"errors": self.errors, "external": self.external, "missing": self.missing}
        return {name: values for name, values in found.items() if values}


@pytest.fixture
def watch(browser, base):
    opened: list[Watched] = []

    def make(**options):
        opened.append(Watched(browser, base, **{"viewport": {"width": 1280, "height": 900}, **options}))
        return opened[-1]

    yield make
    for watched in opened:
        watched.context.close()


def settled(page, graph) -> str:
    """What the figure draws, once it has stopped moving."""
    before = graph.evaluate(DRAWN)
    for _ in range(40):
        page.wait_for_timeout(150)
        after = graph.evaluate(DRAWN)
        if after == before:
            return after
        before = after
    raise AssertionError("the figure never comes to rest")


def test_book_has_the_pages_of_its_table_of_contents(base):
    listed = re.findall(r"^\s*(?:root|- file): *(\S+)", (ROOT / "_toc.yml").read_text(), flags=re.M)
    assert len(listed) >= 5
    assert [name for name in listed if f"{name}.html" not in PAGES] == []
    assert TOUR in PAGES


def test_page_is_clean_and_accessible(watch, page_path):
    watched = watch()
    page = watched.open(page_path)
    assert watched.complaints() == {}
    titles = page.locator("h1:visible")
    assert titles.count() == 1, f"{titles.count()} visible h1 headings"
    images = page.locator("article img").evaluate_all(
        "list => list.map(i => [i.currentSrc || i.src, i.alt, i.naturalWidth])"
    )
    bad_alt = [src for src, alt, _ in images if not alt.strip() or re.search(r"\.(png|jpe?g|svg|gif)$", alt)]
    assert bad_alt == [], "images without a description"
    assert [src for src, _, width in images if width == 0] == [], "images that did not load"
    # An equation that MathJax could not read is drawn as an error box.
    assert page.locator("mjx-merror").count() == 0
    if page.locator(".math").count():
        assert page.locator("mjx-container").count() > 0, "formulas are not typeset"


@pytest.mark.parametrize("theme", ["light", "dark", "mobile"])
def test_page_fits_and_is_photographed(watch, page_path, theme):
    mobile = theme == "mobile"
    watched = watch(
        color_scheme="dark" if theme == "dark" else "light",
        viewport={"width": 390 if mobile else 1280, "height": 844 if mobile else 900},
        is_mobile=mobile,
    )
    page = watched.open(page_path)
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.dataset.theme") == ("dark" if theme == "dark" else "light")
    SHOTS.mkdir(parents=True, exist_ok=True)
    name = page_path.removesuffix(".html").replace("/", "-")
    page.screenshot(path=str(SHOTS / f"{name}.{theme}.png"), full_page=True, animations="disabled")
    width = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert width[0] <= width[1] + 1, f"the page scrolls sideways: {width}"
    blank = page.evaluate("""[...document.querySelectorAll('.plotly-graph-div')].map(graph =>
        graph.parentElement.offsetHeight - graph.querySelector('.main-svg').getBoundingClientRect().height)""")
    assert all(-2 <= pixels <= 2 for pixels in blank), f"room left below figures, or too little: {blank}"
    assert watched.complaints() == {}


def test_tour_figures_are_drawn(watch):
    watched = watch()
    page = watched.open(TOUR)
    graphs = page.locator(".plotly-graph-div")
    drawn = []
    for index in range(graphs.count()):
        graph = graphs.nth(index)
        graph.scroll_into_view_if_needed()
        box = graph.locator(".main-svg").first.bounding_box()
        traces = graph.evaluate("graph => (graph._fullData || []).length")
        marks = graph.locator(
            ".trace, .traces, .hm, .im, .imagelayer image, .layer-above image, .layer-below image, canvas"
        )
        if traces and marks.count() and box["width"] > 200 and box["height"] > 100:
            drawn.append(index)
    assert len(drawn) == graphs.count() >= 3, f"{len(drawn)} of {graphs.count()} figures are drawn"
    assert watched.complaints() == {}


def test_tour_slider_moves(watch):
    watched = watch()
    page = watched.open(TOUR)
    graphs = page.locator(".plotly-graph-div:has(.slider-container)")
    assert graphs.count() >= 1, "no figure with a slider"
    for index in range(graphs.count()):
        graph = graphs.nth(index)
        graph.scroll_into_view_if_needed()
        rail = graph.locator(".slider-rail-touch-rect").first
        pictures = []
        for share in (0.02, 0.98, 0.02):
            box = rail.bounding_box()
            page.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
            pictures.append((graph.evaluate("graph => graph._fullLayout.sliders[0].active"), settled(page, graph)))
        (first, at_start), (last, at_end), (again, back) = pictures
        assert first == again == 0 and last == graph.evaluate("g => g._fullLayout.sliders[0].steps.length - 1")
        assert at_start != at_end, f"figure {index}: the slider moves but the figure does not"
        assert at_start == back, f"figure {index}: moving the slider back does not bring the figure back"
    assert watched.complaints() == {}


def test_figures_follow_dark_mode(watch):
    watched = watch(color_scheme="light")
    page = watched.open(TOUR)
    colours = "() => [...document.querySelectorAll('.plotly-graph-div')].map(g => [g._fullLayout.paper_bgcolor, g._fullLayout.font.color])"
    light = page.evaluate(colours)
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_timeout(1500)
    dark = page.evaluate(colours)
    # Light ink needs a dark ground: nothing between the figure and the page may paint a light one.
    grounds = page.evaluate(
        """() => [...document.querySelectorAll('.plotly-graph-div')].map(graph => {
            for (let node = graph; node; node = node.parentElement) {
                const colour = getComputedStyle(node).backgroundColor;
                if (colour !== 'rgba(0, 0, 0, 0)' && colour !== 'transparent') return colour;
            }
            return 'none';
        })"""
    )
    assert all(max(map(int, re.findall(r"\d+", colour)[:3])) < 80 for colour in grounds), grounds
    assert all(paper == "rgba(0,0,0,0)" and ink == "#e4e8ec" for paper, ink in dark), dark
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    page.wait_for_timeout(1500)
    assert page.evaluate(colours) == light
    assert watched.complaints() == {}


def test_launch_buttons_point_into_the_repository(watch):
    page = watch().open(TOUR)
    links = page.locator("a[href]").evaluate_all("list => list.map(a => a.href)")
    colab = [link for link in links if "colab.research.google.com" in link]
    binder = [link for link in links if "mybinder.org" in link]
    assert colab and all(link.endswith("/blob/main/notebooks/00_tour.ipynb") for link in colab), colab
    assert binder and all("notebooks" in link and "00_tour.ipynb" in link for link in binder), binder


def test_internal_links_lead_somewhere(base):
    broken = []
    for name in PAGES:
        text = (HTML / name).read_text(encoding="utf-8")
        for link in re.findall(r'(?:href|src)="([^"#?:]+)(?:[#?][^"]*)?"', text):
            if not ((HTML / name).parent / link).resolve().exists():
                broken.append(f"{name} -> {link}")
    assert broken == []


def test_search_finds_a_page(watch):
    watched = watch()
    page = watched.open("search.html?q=hard+concrete")
    page.wait_for_selector("#search-results li a", timeout=15_000)
    assert "method" in " ".join(page.locator("#search-results li a").evaluate_all("list => list.map(a => a.href)"))
    assert watched.complaints() == {}
