"""What moves in the built book: figures, sliders (by mouse and by keys), themes, search, closed solutions, slides."""

import re

import pytest
from watching import DECKS, PAGES, ROOT, TOUR, base, browser, settled, watch  # noqa: F401

SLIDERS = [page for page in PAGES if page.startswith("notebooks/0")] + ["book/index.html"]


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


def sliders(page_path: str) -> int:
    """How many figures with a slider a page should have: as many as its notebook makes."""
    path = ROOT / page_path.replace(".html", ".ipynb")
    code = path.read_text() if path.is_file() else "uf.viz.compare("
    return len(re.findall(r"(?:viz\.compare|viz\.threshold|live\.explore)\(", code))


@pytest.mark.parametrize("page_path", SLIDERS)
def test_sliders_move(watch, page_path):
    watched = watch()
    page = watched.open(page_path)
    graphs = page.locator(".plotly-graph-div:has(.slider-container)")
    assert graphs.count() == sliders(page_path)
    for index in range(graphs.count()):
        graph = graphs.nth(index)
        rail = graph.locator(".slider-rail-touch-rect").first
        rail.scroll_into_view_if_needed()
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
    tag = re.search(r"^  branch: (\S+)", (ROOT / "_config.yml").read_text(), flags=re.M).group(1)
    page = watch().open(TOUR)
    links = page.locator("a[href]").evaluate_all("list => list.map(a => a.href)")
    colab = [link for link in links if "colab.research.google.com" in link]
    binder = [link for link in links if "mybinder.org" in link]
    assert colab and all(link.endswith(f"/blob/{tag}/notebooks/00_tour.ipynb") for link in colab), colab
    assert binder and all("notebooks" in link and "00_tour.ipynb" in link for link in binder), binder


def test_search_finds_a_page(watch):
    watched = watch()
    page = watched.open("search.html?q=hard+concrete")
    page.wait_for_selector("#search-results li a", timeout=15_000)
    assert "method" in " ".join(page.locator("#search-results li a").evaluate_all("list => list.map(a => a.href)"))
    assert watched.complaints() == {}


@pytest.mark.parametrize("page_path", ["book/index.html", "notebooks/02_detect.html"])  # pictures; a threshold
def test_sliders_move_with_the_keyboard(watch, page_path):
    watched = watch()
    page = watched.open(page_path)
    graph = page.locator(".plotly-graph-div:has(.slider-container)").first
    for _ in range(400):  # as a reader without a mouse comes there
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "keys":
            break
    keys = page.locator("input.keys:focus")
    assert keys.is_visible() and keys.get_attribute("aria-label")
    found = []
    for key in ("Home", "End", "Home"):
        page.keyboard.press(key)
        page.wait_for_timeout(300)
        active = graph.evaluate("g => [g._fullLayout.sliders[0].active, g._fullLayout.sliders[0].steps.length - 1]")
        assert active[0] == (active[1] if key == "End" else 0)
        found.append((keys.get_attribute("aria-valuetext"), settled(page, graph)))
    first, last, again = found
    assert first[0] != last[0] and first[1] != last[1] and again == first
    assert watched.complaints() == {}


def test_solutions_are_closed_until_asked_for(watch):
    page = watch().open("notebooks/exercises/02_detect.html")
    boxes = page.locator("article details")
    assert boxes.count() == 6 and page.locator("article details[open]").count() == 0
    code = boxes.nth(1).locator("pre")
    assert not code.is_visible()
    boxes.nth(1).locator("summary").focus()
    page.keyboard.press("Enter")
    assert code.is_visible() and "difference" in code.inner_text()


@pytest.mark.parametrize("deck", DECKS)
def test_slides_show_their_figures(watch, deck):
    watched = watch(viewport={"width": 1280, "height": 800})
    page = watched.page
    page.goto(watched.base + deck, wait_until="load")
    page.wait_for_function("() => window.Reveal && Reveal.isReady()")
    total, seen, tall = page.evaluate("Reveal.getTotalSlides()"), 0, []
    assert total >= 6 and page.locator("h1").count() == 1
    for index in range(total):
        page.evaluate(f"Reveal.slide({index})")
        page.wait_for_timeout(60)
        slide = page.locator("section.present")
        assert slide.locator("h1, h2").first.inner_text().strip(), f"slide {index} has no title"
        seen += slide.locator(".plotly-graph-div .main-svg").count() > 0
        page.wait_for_timeout(100 if slide.locator(".plotly-graph-div").count() else 0)
        if slide.evaluate("s => s.scrollHeight") > 730:
            tall.append((index, slide.locator("h1, h2").first.inner_text()))
    assert seen == page.locator("section:has(.plotly-graph-div)").count() >= 1
    assert tall == [], "slides that are higher than the screen"
    assert page.locator("mjx-merror").count() == 0
    assert watched.complaints() == {}
