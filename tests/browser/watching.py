"""What the browser tests share: the built book, Chromium, and a page that notes everything that goes wrong on it.

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
from contextlib import contextmanager
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
BUILT = sorted(path.relative_to(HTML).as_posix() for path in HTML.rglob("*.html")
               if not {"_static", "_sources"} & set(path.parts))  # fmt: skip
DECKS = [path for path in BUILT if path.startswith("slides/")]
PAGES = [path for path in BUILT if path not in DECKS and path not in ("genindex.html", "search.html")]
# Thebe's loader is included twice by the theme and says so; nothing depends on it.
HARMLESS = re.compile(r"THEBE_JS_URL")
TOUR = "notebooks/00_tour.html"

# Everything that a plotly figure draws, without its slider and its hover layer. Before each look the figure is left
# alone until two readings agree, so that an animation has ended.
DRAWN = """graph => [...graph.querySelectorAll(
    'g.cartesianlayer, g.layer-below, g.imagelayer, g.g-gtitle, g.annotation, g.polarlayer')]
    .map(node => node.outerHTML).join('')"""


@contextmanager
def serving(folder: Path):
    """The address of a server for ``folder``, on this machine only."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def base():
    """Address of a server for the built book, on this machine only."""
    if not (HTML / "index.html").is_file():
        message = f"no built book in {HTML}: run `make book` first"
        pytest.fail(message) if CI or os.environ.get("UNIFORGET_REQUIRE_BOOK") else pytest.skip(message)

    with serving(HTML) as address:
        yield address


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

    def make(address: str = base, **options):
        opened.append(Watched(browser, address, **{"viewport": {"width": 1280, "height": 900}, **options}))
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
