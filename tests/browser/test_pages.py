"""Every page of the built book: no error, no request to another machine, accessible, described figures, fits its screen."""

import json
import re
import zipfile
from pathlib import Path

import axe_playwright_python
import pytest
from watching import CI, DECKS, HTML, PAGES, ROOT, SHOTS, TOUR, base, browser, serving, watch  # noqa: F401

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
VIEWS = {"light": {"color_scheme": "light"}, "dark": {"color_scheme": "dark"},
         "mobile": {"viewport": {"width": 390, "height": 844}, "is_mobile": True}}  # fmt: skip
CONTENT = [page for page in PAGES if page != "index.html"] or [TOUR]  # index.html only leads to the landing page


def accessibility(page) -> list[str]:
    """What axe-core finds wrong: names, roles, heading order, contrast of text, and more."""
    page.evaluate(AXE)
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations'], preload: false})")["violations"]
    return [f"{v['id']}: {v['help']}: {node['target']} {node['html'][:120]}" for v in found for node in v["nodes"][:3]]


@pytest.mark.parametrize("page_path", CONTENT)
@pytest.mark.parametrize("view", VIEWS)
def test_page_is_clean_accessible_and_fits(watch, page_path, view):
    watched = watch(**VIEWS[view])
    page = watched.open(page_path)
    page.wait_for_timeout(300)
    assert watched.complaints() == {}
    assert page.evaluate("document.documentElement.dataset.theme") == ("dark" if view == "dark" else "light")
    SHOTS.mkdir(parents=True, exist_ok=True)
    name = page_path.removesuffix(".html").replace("/", "-")
    page.screenshot(path=str(SHOTS / f"{name}.{view}.png"), full_page=True, animations="disabled")
    width = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert width[0] <= width[1] + 1, f"the page scrolls sideways: {width}"
    blank = page.evaluate("""[...document.querySelectorAll('.plotly-graph-div')].map(graph =>
        graph.parentElement.offsetHeight - graph.querySelector('.main-svg').getBoundingClientRect().height)""")
    assert all(-2 <= pixels <= 2 for pixels in blank), f"room left below figures, or too little: {blank}"
    described(page)
    if view != "mobile":
        assert accessibility(page) == []
    assert watched.complaints() == {}


def described(page) -> None:
    """One title, every image and figure in words, every formula typeset."""
    titles = page.locator("h1:visible")
    assert titles.count() == 1, f"{titles.count()} visible h1 headings"
    images = page.locator("article img").evaluate_all(
        "list => list.map(i => [i.currentSrc || i.src, i.alt, i.naturalWidth])"
    )
    bad_alt = [src for src, alt, _ in images if not alt.strip() or re.search(r"\.(png|jpe?g|svg|gif)$", alt)]
    assert bad_alt == [], "images without a description"
    assert [src for src, _, width in images if width == 0] == [], "images that did not load"
    words = page.locator(".plotly-graph-div").evaluate_all(
        "list => list.map(g => (g.closest('[role=figure]') || g).getAttribute('aria-label') || '')"
    )
    assert all(len(text) > 40 for text in words), f"figures without a description: {words}"
    assert page.locator("mjx-merror").count() == 0, "an equation that MathJax could not read"
    if page.locator(".math").count():
        assert page.locator("mjx-container").count() > 0, "formulas are not typeset"


def test_accessibility_checker_can_fail(watch):
    page = watch().open(PAGES[0])
    page.evaluate(
        "document.querySelector('article').innerHTML = '<img src=x><p style=\"color:#ccc;background:#fff\">pale</p>'"
    )
    found = " ".join(accessibility(page))
    assert "image-alt" in found and "color-contrast" in found


def test_book_has_the_pages_of_its_table_of_contents(base):
    listed = re.findall(r"^\s*(?:root|- file): *(\S+)", (ROOT / "_toc.yml").read_text(), flags=re.M)
    assert len(listed) >= 20
    assert [name for name in listed if f"{name}.html" not in PAGES] == []
    chapters = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {Path(deck).stem for deck in DECKS} == chapters
    assert {f"notebooks/{name}" for name in chapters} <= set(listed)


def test_internal_links_lead_somewhere(base):
    ids, broken = {}, []
    for name in [*PAGES, *DECKS]:
        text = (HTML / name).read_text(encoding="utf-8")
        for link, anchor in re.findall(r'(?:href|src)="([^"#?:]*)(?:\?[^"#]*)?(?:#([^"]*))?"', text):
            target = ((HTML / name).parent / link).resolve() if link else HTML / name
            if not target.exists():
                broken.append(f"{name} -> {link}")
            elif anchor and target.suffix == ".html" and name not in DECKS:
                if target not in ids:
                    ids[target] = set(re.findall(r'\bid="([^"]*)"', target.read_text(encoding="utf-8")))
                if anchor not in ids[target]:
                    broken.append(f"{name} -> {link}#{anchor}")
    assert broken == [] and len(ids) > 10


@pytest.mark.parametrize(
    "page_path", ["book/index.html", TOUR, "notebooks/exercises/02_detect.html", "search.html?q=mask"]
)
@pytest.mark.parametrize("where", ["file", "sub-path"])
def test_book_works_unserved_and_below_a_path(watch, page_path, where):
    with serving(HTML.parent) as parent:
        address = f"{HTML.as_uri()}/" if where == "file" else f"{parent}{HTML.name}/"
        watched = watch(address)
        page = watched.open(page_path)
        if page_path.startswith("search"):
            page.wait_for_selector("#search-results li a", timeout=15_000)
        page.wait_for_timeout(300)
        assert watched.complaints() == {}
        assert page.locator("a[href$='uniforget-book.zip']").count() == (
            where != "file" and page_path == "book/index.html"
        )


def test_archive_is_the_book_and_course_kit_has_three_editions(base):
    with zipfile.ZipFile(HTML / "uniforget-book.zip") as archive:
        names = set(archive.namelist())
        assert archive.testzip() is None
    missing = [
        p
        for p in [*PAGES, *DECKS, "_static/plotly.min.js", "uniforget-course.zip"]
        if f"uniforget-book/{p}" not in names
    ]
    assert missing == []
    with zipfile.ZipFile(HTML / "uniforget-course.zip") as archive:
        for edition, solved in (("student", True), ("handout", False), ("instructor", True)):
            text = archive.read(f"uniforget-course/{edition}/02_detect.ipynb").decode()
            assert ("difference = positive" in text) == solved and json.loads(text)["cells"]


def test_status_page_has_every_notebook(base):
    text = (HTML / "book" / "status.html").read_text(encoding="utf-8")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        row = next(r for r in text.split("<tr") if f"/{path.stem}.html" in r and "<td>" in r)
        assert re.search(r"\d+(\.\d)? (minutes|seconds), \d+\.\d GB", row), path.stem
