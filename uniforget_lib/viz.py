"""Figures of the book: plotly, self-contained, readable in light and dark. Each returns a figure."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import torch
from PIL import Image
from torch import Tensor

from .evaluate.stats import Estimate
from .page import StaticRenderer, published

COLOURS = {"planted": "#d1495b", "neutral": "#2e86ab", "control": "#8d99ae", "uniforget": "#d1495b",
           "random": "#8d99ae", "twin": "#2e86ab", "magnitude": "#edae49", "unpruned": "#3c6e47"}  # fmt: skip

CYCLE = ("#d1495b", "#2e86ab", "#edae49", "#3c6e47", "#8d99ae", "#7b1e3a", "#00798c", "#b56576", "#6d597a", "#355070")


def use_book_style(static: bool | None = None) -> None:
    """Set the plotly template, and the renderer: ``static`` for the published book (the default while it is built),
    otherwise the one that Jupyter or Colab picks."""
    static = published() if static is None else static
    template = go.layout.Template(pio.templates["plotly_white"])
    template.layout.update(font={"size": 14}, title={"font": {"size": 15}, "x": 0, "xanchor": "left"}, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
                           margin={"l": 60, "r": 20, "t": 50, "b": 50})  # fmt: skip
    pio.templates["uniforget"] = template
    pio.templates.default = "uniforget"
    if static:
        pio.renderers["uniforget"] = StaticRenderer()
        pio.renderers.default = "uniforget"


LABEL = 16  # height of a row's label, in pixels of the images


def mosaic(rows: Sequence[Tensor], gap: int = 4, label: int = 0) -> Image.Image:
    """Rows of images, each [n, 3, H, W] in [0, 1] and of the same length, as one picture; ``label``: room above each."""
    n = len(rows[0])
    if any(len(r) != n for r in rows):
        raise ValueError(f"rows have {[len(r) for r in rows]} images; they must have the same number")
    side = rows[0].shape[-1]
    canvas = np.zeros((len(rows) * (side + gap + label), n * (side + gap) - gap, 4), dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            y, x = i * (side + gap + label) + label, j * (side + gap)
            canvas[y : y + side, x : x + side, :3] = (image.permute(1, 2, 0).numpy() * 255).round()
            canvas[y : y + side, x : x + side, 3] = 255
    return Image.fromarray(canvas)


def _source(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def grid(rows: dict[str, Tensor], captions: Sequence[str] = (), title: str = "") -> go.Figure:
    """A grid of images with named rows; captions, one a column or a list a row, appear on hover."""
    picture = mosaic(list(rows.values()), label=LABEL)
    fig = go.Figure()
    _add_picture(fig, picture, visible=True)
    _add_captions(fig, picture, rows, captions)
    return _bare(fig, picture, rows, title)


def compare(
    states: dict[str, dict[str, Tensor]], captions: Sequence[str] = (), title: str = "", of: str = "model"
) -> go.Figure:
    """A slider over ``states`` (name -> named rows of images): before and after, in the page, without a kernel."""
    fig, names = go.Figure(), list(states)
    for i, rows in enumerate(states.values()):
        picture = mosaic(list(rows.values()), label=LABEL)
        _add_picture(fig, picture, visible=i == 0)
    _add_captions(fig, picture, rows, captions)
    steps = [{"label": name, "method": "restyle", "args": [{"visible": [k == i for k in range(len(names))] + [True]}]}
             for i, name in enumerate(names)]  # fmt: skip
    fig = _bare(fig, picture, states[names[0]], title)
    # Above the pictures: below a high grid it would be moved without seeing what it moves.
    slider = {
        "steps": steps,
        "active": 0,
        "y": 1,
        "yanchor": "bottom",
        "pad": {"b": 14},
        "currentvalue": {"prefix": f"{of}: "},
    }
    fig.update_layout(sliders=[slider], margin={"l": 40, "r": 60, "t": fig.layout.margin.t + 84})
    fig.update_layout(title={"y": 1, "yanchor": "top", "yref": "container", "pad": {"t": 16}})
    return _fit(fig, picture, around=10 + fig.layout.margin.t)


def _add_picture(fig: go.Figure, picture: Image.Image, visible: bool) -> None:
    fig.add_trace(go.Image(source=_source(picture), visible=visible, hoverinfo="skip"))


def _add_captions(fig: go.Figure, picture: Image.Image, rows: dict[str, Tensor], captions: Sequence[str]) -> None:
    """Captions on hover: an Image trace has no text of its own, so one invisible point stands on each image."""
    by_row = [list(captions)] * len(rows) if not captions or isinstance(captions[0], str) else captions
    n = len(next(iter(rows.values())))
    for row in by_row if captions else ():
        if len(row) != n:
            raise ValueError(f"{len(row)} captions for rows of {n} images: give one for each, or none")
    x = [(i + 0.5) * picture.width / n for i in range(n)] * len(rows)
    y = [(r + 0.5) * picture.height / len(rows) for r in range(len(rows)) for _ in range(n)]
    hover = [caption for row in by_row for caption in row] or None
    fig.add_trace(go.Scatter(x=x, y=y, mode="markers", marker={"opacity": 0, "size": 40}, showlegend=False,
                             hovertext=hover, hoverinfo="text" if hover else "skip"))  # fmt: skip


def _bare(fig: go.Figure, picture: Image.Image, rows: dict, title: str) -> go.Figure:
    """No axes; the name of each row stands above it, so that a narrow screen gives its whole width to the images."""
    step = picture.height / len(rows)
    fig.update_xaxes(visible=False, range=[0, picture.width])
    fig.update_yaxes(visible=False, range=[picture.height, 0], scaleanchor="x")
    for i, name in enumerate(rows):
        fig.add_annotation(x=0, y=i * step + LABEL, text=name, xanchor="left", yanchor="bottom", showarrow=False)
    fig.update_layout(margin={"l": 10, "r": 10, "b": 10}, **_titled(title))
    return _fit(fig, picture, around=10 + fig.layout.margin.t)


def _titled(title: str) -> dict:
    """Layout of a title, in lines short enough for a phone: plotly breaks none by itself."""
    lines = textwrap.wrap(title, 42)
    return {"title": "<br>".join(lines), "margin_t": 32 + 18 * max(1, len(lines))}


def _fit(fig: go.Figure, picture: Image.Image, around: int) -> go.Figure:
    """Height for a column of 700 pixels; the book's script reads ``meta`` and fits it to the width of the page."""
    aspect = picture.height / picture.width
    return fig.update_layout(height=int(around + 680 * aspect), meta={"aspect": aspect, "around": around})


def histogram(groups: dict[str, np.ndarray], xlabel: str, title: str = "", of: str = "prompts") -> go.Figure:
    """Overlaid histograms of named groups (share of each group a bin)."""
    values = np.concatenate([np.asarray(v) for v in groups.values()])
    size = (values.max() - values.min()) / 40
    bins = {"start": float(values.min()), "end": float(values.max() + size), "size": float(size)}
    fig = go.Figure([go.Histogram(x=v, name=name, histnorm="probability", opacity=0.6, xbins=bins,
                                  marker_color=COLOURS.get(name.split()[0])) for name, v in groups.items()])  # fmt: skip
    return fig.update_layout(barmode="overlay", xaxis_title=xlabel, yaxis_title=f"share of {of}", **_titled(title))


def curves(
    series: dict[str, list[tuple[float, Estimate | float]]], xlabel: str, ylabel: str, title: str = ""
) -> go.Figure:
    """Lines: name -> [(x, Estimate)], with 95 % error bars, or name -> [(x, number)], without. The first
    word of a name sets its colour; those that end in "control" are dotted, in "neutral" dashed. Many names go below."""
    fig = go.Figure()
    for name, points in series.items():
        look = {"name": name, "x": [x for x, _ in points], "line": {"color": COLOURS.get(name.split()[0])}}
        look["line"]["dash"] = {"control": "dot", "neutral": "dash"}.get(name.split()[-1], "solid")
        if not isinstance(points[0][1], Estimate):
            fig.add_trace(go.Scatter(y=[y for _, y in points], mode="lines", **look))
            continue
        bars = {"array": [e.high - e.mean for _, e in points], "arrayminus": [e.mean - e.low for _, e in points]}
        fig.add_trace(go.Scatter(y=[e.mean for _, e in points], error_y=bars, mode="lines+markers", **look))
    fig.update_layout(xaxis_title=xlabel, yaxis_title=ylabel, **_titled(title))
    if len(series) > 4:  # beside the figure they would take half of a phone
        fig.update_layout(legend={"orientation": "h", "y": -0.25, "yanchor": "top"}, height=480 + 12 * len(series))
    return fig


def plane(groups: dict[str, list[tuple[str, Estimate, Estimate]]], xlabel: str, ylabel: str, title: str = "",
          written: Sequence[str] = ()) -> go.Figure:  # fmt: skip
    """Points with error bars both ways: group -> [(name, x, y)]. Names appear on hover, those in ``written`` beside their
    point."""
    fig = go.Figure()
    for k, (group, points) in enumerate(groups.items()):
        bars = [{"array": [e.high - e.mean for e in axis], "arrayminus": [e.mean - e.low for e in axis], "thickness": 1}
                for axis in ([x for _, x, _ in points], [y for _, _, y in points])]  # fmt: skip
        mark = {"size": 11, "color": CYCLE[k % len(CYCLE)], "symbol": ("circle", "square", "diamond", "cross")[k % 4]}
        names = [name for name, _, _ in points]
        fig.add_trace(go.Scatter(x=[x.mean for _, x, _ in points], y=[y.mean for _, _, y in points], name=group,
                                 text=[n if n in written else "" for n in names], hovertext=names, mode="markers+text",
                                 textposition="top right", error_x=bars[0], error_y=bars[1], marker=mark))  # fmt: skip
    fig.update_layout(xaxis_title=xlabel, yaxis_title=ylabel, **_titled(title))
    return fig.update_layout(legend={"orientation": "h", "y": -0.25, "yanchor": "top"}, height=560)


def overlay(images: Tensor, maps: Tensor) -> Tensor:
    """Maps [n, h, w], each scaled to its own maximum, as a red veil over images [n, 3, H, W]: [n, 3, H, W]."""
    maps = maps.float() / maps.flatten(1).amax(1).clamp(min=1e-12)[:, None, None]
    veil = torch.nn.functional.interpolate(maps[:, None], size=images.shape[2:], mode="nearest")
    grey = images.mean(1, keepdim=True).expand(-1, 3, -1, -1) * 0.6 + 0.4
    return grey.lerp(torch.tensor([0.82, 0.1, 0.2])[None, :, None, None].expand_as(grey), 0.85 * veil)


def _shade(colour: str, alpha: float = 0.15) -> str:
    return f"rgba({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))}, {alpha})"


def roc(bands: dict[str, dict], title: str = "") -> go.Figure:
    """ROC curves with their bands: name -> what `evaluate.roc_band` gives. The false positive rate is drawn as its
    square root, because the left end decides; a click on a name in the legend hides a curve, a double click isolates it.
    """
    fig = go.Figure()
    for i, (name, band) in enumerate(bands.items()):
        colour, x = CYCLE[i % len(CYCLE)], np.sqrt(band["fpr"])
        fig.add_trace(go.Scatter(x=np.concatenate([x, x[::-1]]), y=np.concatenate([band["high"], band["low"][::-1]]),
                                 fill="toself", fillcolor=_shade(colour), line={"width": 0}, hoverinfo="skip",
                                 legendgroup=name, showlegend=False))  # fmt: skip
        fig.add_trace(
            go.Scatter(x=x, y=band["tpr"], name=name, legendgroup=name, line={"color": colour, "shape": "hv"})
        )
    ticks = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 1]
    fig.update_xaxes(tickvals=np.sqrt(ticks), ticktext=[f"{t:g}" for t in ticks], title="false positive rate")
    fig.add_vline(0.1, line_dash="dot", annotation_text="1 %")
    return fig.update_layout(yaxis_title="true positive rate", **_titled(title))


def threshold(groups: dict[str, np.ndarray], xlabel: str, title: str = "", steps: int = 41) -> go.Figure:
    """A threshold to move, in the page, without a kernel: histograms of named groups of risks, and under them how many
    prompts of each group are flagged (risk >= threshold)."""
    fig, n = histogram(groups, xlabel), len(groups)
    values = np.concatenate([np.asarray(v, dtype=float) for v in groups.values()])
    limits = np.linspace(values.min(), values.max(), steps)

    def flagged(limit: float) -> list[list[str]]:
        hit = [int((np.asarray(v) >= limit).sum()) for v in groups.values()]
        return [list(groups), [f"{h} of {len(v)}" for h, v in zip(hit, groups.values())],
                [f"{h / len(v):.2f}" for h, v in zip(hit, groups.values())]]  # fmt: skip

    def line(limit: float) -> list[dict]:
        return [{"type": "line", "xref": "x", "yref": "paper", "x0": limit, "x1": limit, "y0": 0.45, "y1": 1,
                 "line": {"dash": "dash", "color": "#888"}}]  # fmt: skip

    at = int(np.searchsorted(limits, np.median(values)))
    ink = {"font": {"color": "#222"}, "align": "left"}  # tables keep their light ground in dark mode
    fig.add_trace(go.Table(header={"values": ["prompts", "flagged", "share"], "fill": {"color": "#c8d4e3"}, **ink},
                           cells={"values": flagged(limits[at]), "fill": {"color": "#ebf0f8"}, "height": 24, **ink},
                           domain={"y": [0, 0.34]}))  # fmt: skip
    moves = [{"label": f"{limit:.3g}", "method": "update",
              "args": [{"cells.values": [flagged(limit)]}, {"shapes": line(limit)}, [n]]} for limit in limits]  # fmt: skip
    slider = {"steps": moves, "active": at, "currentvalue": {"prefix": "threshold: "}, "pad": {"t": 30}}
    fig.update_layout(sliders=[slider], shapes=line(limits[at]), yaxis_domain=[0.45, 1], **_titled(title))
    room = 20 * n  # names above the figure, one a line on a phone: beside it they would squeeze the table
    legend = {"orientation": "h", "y": 1, "yanchor": "bottom"}
    return fig.update_layout(legend=legend, margin_t=fig.layout.margin.t + room, height=660 + room,
                             title={"y": 1, "yanchor": "top", "pad": {"t": 16}})  # fmt: skip


def heatmap(values: Tensor, rows: Sequence[str], columns: Sequence[str], title: str = "") -> go.Figure:
    """A matrix [rows, columns] in colours, dark for high."""
    trace = go.Heatmap(z=np.asarray(values), x=list(range(len(columns))), y=list(rows), colorscale="Blues", zmin=0)
    fig = go.Figure(trace)
    fig.update_xaxes(tickvals=list(range(len(columns))), ticktext=list(columns))
    fig.update_yaxes(autorange="reversed")
    return fig.update_layout(**_titled(title))


def umap(points: Tensor, *, neighbours: int = 15, seed: int = 0) -> Tensor:
    """A UMAP map of points [n, d]: [n, 2]. Reproducible on one machine. Distances between clusters in it mean little: set a
    statistic beside it (`evaluate.mmd`). Needs umap-learn: ``pip install "uniforget-lib[figures]"``."""
    if not 2 < neighbours < len(points):
        raise ValueError(
            f"neighbours={neighbours}: must lie between 3 and the number of points, {len(points)}, less one"
        )
    try:
        from umap import UMAP
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('maps need umap-learn: pip install "uniforget-lib[figures]"') from error
    flat = points.detach().flatten(1).float().cpu().numpy()
    return torch.from_numpy(UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1).fit_transform(flat))


def scatter(groups: dict[str, Tensor], title: str = "") -> go.Figure:
    """Named groups of points [n, 2], without axes: in a map of UMAP only the neighbourhoods mean something."""
    marks = ("circle-open", "circle", "diamond-open", "diamond")
    fig = go.Figure()
    for k, (name, points) in enumerate(groups.items()):
        x, y = points.T.numpy()
        colour = COLOURS.get(name.split()[0].strip(","), CYCLE[k % len(CYCLE)])
        fig.add_trace(go.Scatter(x=x, y=y, name=name, mode="markers",
                                 marker={"symbol": marks[k % 4], "color": colour, "size": 8, "opacity": 0.8}))  # fmt: skip
    fig.update_xaxes(visible=False)
    fig.update_yaxes(visible=False, scaleanchor="x")
    legend = {"orientation": "h", "y": 0, "yanchor": "top"}  # below: beside it, it takes half of a phone
    return fig.update_layout(legend=legend, **_titled(title))
