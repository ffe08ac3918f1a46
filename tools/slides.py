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
  Reveal.getCurrentSlide().querySelectorAll(".plotly-graph-div").forEach(function (g) {{ bookFit(g, 560); }});
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
    """(heading, text below it); the text before the first heading has the heading ''. Code is no heading."""
    found, fenced = [("", [])], False
    for row in text.splitlines():
        fenced ^= row.startswith("```")
        heading = None if fenced else re.match(r"#{1,3} +(.+)$", row)
        if heading:
            found.append((heading.group(1), []))
        else:
            found[-1][1].append(row)
    return [(heading, "\n".join(rows).strip()) for heading, rows in found]


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


def exercise_list(exercises: list) -> str:
    return "<ul>" + "".join(f"<li>{e.number} {escape(e.title)} ({e.minutes} minutes)</li>" for e in exercises) + "</ul>"


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
    heading, waiting, said = "", [], []  # figures wait for the prose that reads them, prose for a slide

    def show(*bodies: str) -> None:
        made.extend(slide(heading, body, "\n\n".join(said)) for body in bodies)
        said.clear()

    for cell in cells[1:]:
        if cell["cell_type"] == "code":
            waiting += outputs(cell)
            continue
        for name, text in sections("".join(cell["source"])):
            if name:
                if waiting or said:
                    show(*(waiting or [""]))
                heading, waiting = name, []
            said += [text] if text else []
            if not name and waiting:  # the reading of what was just drawn
                show(*waiting)
                waiting = []
            body = exercise_list(exercises) if name == "Exercises" and exercises else equations(text) or bullets(text)
            if name and body:
                show(body)
    if waiting or said:
        show(*(waiting or [""]))
    return PAGE.format(title=escape(plain(title)), slides="\n".join(made))
