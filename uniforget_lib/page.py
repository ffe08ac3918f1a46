"""Figures on a page that is published: without a kernel, without a CDN, and in words for readers who do not see them."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
from plotly.io.base_renderers import HtmlRenderer

MOST = 12  # names in a list, before "and k more"


def published() -> bool:
    """Is the book being built? Then nothing may need a kernel."""
    return bool(os.environ.get("UNIFORGET_BOOK_BUILD"))


class StaticRenderer(HtmlRenderer):
    """Figures as HTML without plotly.js: the book loads its own copy once (book/_static), so no page asks a CDN. Each says
    in words what it shows."""

    def __init__(self) -> None:
        super().__init__(connected=False, full_html=False, global_init=False)

    def to_mimebundle(self, fig_dict: dict) -> dict[str, str]:
        html = pio.to_html(fig_dict, include_plotlyjs=False, include_mathjax=False, full_html=False,
                           config={"responsive": True, "displaylogo": False}, default_height=None)  # fmt: skip
        words = escape(describe(go.Figure(fig_dict)), quote=True)
        return {"text/html": f'<div role="figure" aria-label="{words}">{html}</div>'}


def describe(fig: go.Figure) -> str:
    """A description of a figure: its title, kind, axes, and for every line where it begins and ends.

    It says what was drawn, not what to conclude; the text beside the figure does.
    """
    kinds = [trace.type for trace in fig.data]
    words = [_plain(fig.layout.title.text)]
    if "image" in kinds:
        words.append(_pictures(fig))
    elif "heatmap" in kinds:
        words.append(_matrix(fig.data[0]))
    elif "histogram" in kinds:
        groups = [f"{t.name}, {len(_values(t.x))} values" for t in fig.data if t.type == "histogram"]
        words.append(f"Histogram of {_axis(fig, 'x')}: {_list(groups)}")
    else:
        words.append(_points(fig))
    words += [_slider(slider) for slider in fig.layout.sliders]
    return ". ".join(word for word in words if word) + "."


def _plain(text: str | None) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text or "")).strip()


def _list(names: Sequence[str]) -> str:
    names = [name for name in names if name]
    return "; ".join(names[:MOST]) + (f"; and {len(names) - MOST} more" if len(names) > MOST else "")


def _axis(fig: go.Figure, axis: str) -> str:
    return _plain(fig.layout[f"{axis}axis"].title.text) or f"{axis} axis"


def _values(data) -> Sequence:
    """Coordinates as they are, or decoded: plotly writes arrays of numbers as base64."""
    if isinstance(data, dict):
        return np.frombuffer(base64.b64decode(data["bdata"]), dtype=data["dtype"])
    return () if data is None else data


def _number(value) -> str:
    try:
        return f"{float(value):.3g}"
    except (TypeError, ValueError):  # a name, or a date
        return str(value)


def _pictures(fig: go.Figure) -> str:
    rows = [_plain(note.text) for note in fig.layout.annotations]
    captions = [text for trace in fig.data if trace.type == "scatter" and trace.hovertext for text in trace.hovertext]
    columns = list(dict.fromkeys(captions))
    return f"Grid of pictures, rows: {_list(rows)}" + (f". Captions: {_list(columns)}" if columns else "")


def _matrix(trace) -> str:
    return f"Matrix in colours, {len(trace.y)} rows: {_list([str(name) for name in trace.y])}"


def _points(fig: go.Figure) -> str:
    found = []
    for k, trace in enumerate(fig.data, start=1):
        if trace.type != "scatter" or trace.showlegend is False or not len(_values(trace.x)):
            continue
        name, x, y = trace.name or f"line {k}", _values(trace.x), _values(trace.y)
        if "lines" in (trace.mode or "lines"):
            ends = [f"{_number(y[end])} at {_number(x[end])}" for end in (0, -1)]
            found.append(f"{name}, from {ends[0]} to {ends[1]}")
        else:
            found.append(f"{name}, {len(x)} points")
    shown = fig.layout.xaxis.visible is not False
    what = f"Figure of {_axis(fig, 'y')} against {_axis(fig, 'x')}" if shown else "Map of points"
    return f"{what}: {_list(found)}"


def _slider(slider) -> str:
    of, names = _plain((slider.currentvalue.prefix or "").rstrip(": ")), [step.label for step in slider.steps]
    stops = _list(names) if len(names) <= MOST else f"{len(names)} stops from {names[0]} to {names[-1]}"
    return f"A slider changes the {of or 'state'}: {stops}"
