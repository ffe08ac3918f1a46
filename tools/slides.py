"""Slides from the executed notebooks: the title and what one learns, every section with its figures and small tables, the
takeaways, the exercises. The prose around them goes into the speaker notes (key S). Everything is loaded from ``_static``.
"""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path

from nbconvert.filters import markdown2html

ROWS = 10  # of a table on a slide, at most
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: slides</title>
<link rel="stylesheet" href="../_static/reveal/reveal.css">
<link rel="stylesheet" href="../_static/book.css">
<link rel="stylesheet" href="../_static/slides.css">
<script>MathJax = {{tex: {{inlineMath: [["$", "$"], ["\\\\(", "\\\\)"]]}}}};</script>
<script defer src="../_static/mathjax/tex-chtml-full.js"></script>
<script src="../_static/plotly.min.js"></script>
<script src="../_static/book.js"></script>
<script src="../_static/reveal/reveal.js"></script>
<script src="../_static/reveal/notes.js"></script>
</head>
<body>
<main class="reveal"><div class="slides">
{slides}
</div></main>
<script>
Reveal.initialize({{hash: true, slideNumber: "c/t", width: 1100, height: 720, plugins: [RevealNotes]}});
function draw() {{
  Reveal.getCurrentSlide().querySelectorAll(".plotly-graph-div").forEach(function (g) {{ Plotly.Plots.resize(g); }});
}}
Reveal.on("ready", draw);
Reveal.on("slidechanged", draw);
</script>
</body>
</html>
"""


def plain(text: str) -> str:
    """Markdown without the roles and labels that only Sphinx knows."""
    text = re.sub(r"\{eq\}`[^`]*`", "the equation", text)
    text = re.sub(r"\{cite(?::\w+)?\}`([^`]*)`", r"[\1]", text)
    text = re.sub(r"\{\w+\}`([^`<]*?)\s*<[^`>]*>`", r"\1", text)
    text = re.sub(r"\{\w+\}`/?([^`]*)`", r"\1", text)
    return re.sub(r"(\$\$) *\(eq-[\w-]+\)", r"\1", text)


def sections(text: str) -> list[tuple[str, str]]:
    """(heading, text below it); the text before the first heading has the heading ''."""
    parts = re.split(r"^#{1,3} +(.+)$", text, flags=re.M)
    return [("", parts[0].strip())] + [(parts[k], parts[k + 1].strip()) for k in range(1, len(parts), 2)]


def slide(heading: str, body: str, notes: str = "") -> str:
    aside = f'<aside class="notes">{markdown2html(plain(notes))}</aside>' if notes else ""
    return f"<section><h2>{escape(plain(heading))}</h2>{body}{aside}</section>"


def bullets(text: str) -> str:
    """The list items of a text, as a list on slides: each cut after its first sentence."""
    items = re.split(r"^[*-] +", text, flags=re.M)[1:]
    short = [re.split(r"(?<=[.?!])\s", " ".join(item.split("\n\n")[0].split()))[0] for item in items]
    return markdown2html("\n".join(f"* {plain(item)}" for item in short))


def equations(text: str) -> str:
    return "".join(f"<p>{escape(found)}</p>" for found in re.findall(r"\$\$.+?\$\$", plain(text), flags=re.S))


def outputs(cell: dict) -> list[str]:
    """Figures of a cell, and its tables if they fit a slide."""
    found = []
    for output in cell.get("outputs", []):
        html = "".join(output.get("data", {}).get("text/html", ""))
        if "plotly-graph-div" in html or ("<table" in html and html.count("<tr") - 1 <= ROWS):
            found.append(f'<div class="output">{html}</div>')
    return found


def deck(notebook: Path, exercises: list) -> str:
    """The HTML of the slides of an executed notebook; ``exercises`` of its chapter have title, difficulty and minutes."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    (_, _), (title, opening), *_ = sections("".join(cells[0]["source"]))
    goals = opening.partition("**You will learn to**")[2].partition("**Before you start")[0]
    made = [f"<section><h1>{escape(plain(title))}</h1>{bullets(goals)}"
            f'<aside class="notes">{markdown2html(plain(opening))}</aside></section>']  # fmt: skip
    heading, waiting = "", []  # figures wait for the prose that reads them
    for cell in cells[1:]:
        if cell["cell_type"] == "code":
            waiting += outputs(cell)
            continue
        for name, text in sections("".join(cell["source"])):
            if not name:  # the reading of what was just drawn
                made += [slide(heading, body, text) for body in waiting]
                waiting = []
                continue
            made += [slide(heading, body) for body in waiting]
            waiting, heading = [], name
            points = text.partition("To try on your own")[0] if name == "Exercises" else text
            body = equations(text) or bullets(points)
            if name == "Exercises" and exercises:
                body = (
                    "<ul>"
                    + "".join(f"<li>{e.number} {escape(e.title)} ({e.minutes} minutes)</li>" for e in exercises)
                    + "</ul>"
                )
            if body:
                made.append(slide(name, body, text))
    made += [slide(heading, body) for body in waiting]
    return PAGE.format(title=escape(plain(title)), slides="\n".join(made))
