"""Figures to play with: a slider over pictures that needs no kernel, and in Jupyter and Colab a box (ipywidgets) in which a
caption of one's own is drawn in the same figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from . import viz
from .page import published

Rows = dict[str, Tensor]  # name of a row -> images [n, 3, H, W]


def explore(
    draw: Callable[[object, Sequence[str]], Rows],
    stops: Sequence,
    captions: Sequence[str],
    *,
    columns: Sequence[str] | None = None,
    title: str = "",
    of: str = "share removed",
):
    """A slider over ``stops``; ``draw(stop, captions)`` gives named rows of images for each.

    In the published book: a plotly figure. With a kernel: the figure is displayed, and a widget is returned, a box for a
    caption of your own, which is drawn at all stops under it.

    Args:
        columns: what appears on hover, one a column (None: the captions).

    Raises ValueError for no stops or no captions, before anything is drawn.
    """
    stops, captions = list(stops), list(captions)
    if not stops or not captions:
        raise ValueError("explore needs at least one stop and one caption")

    def figure(asked: list[str], title: str):
        return viz.compare({_name(s): draw(s, asked) for s in stops}, asked if columns is None else columns, title, of)

    if published():
        return figure(captions, title)
    return _with_box(figure, captions, title)


def _name(stop) -> str:
    return f"{stop:g}" if isinstance(stop, (int, float)) else str(stop)


def _with_box(figure: Callable, captions: list[str], title: str):
    import ipywidgets as widgets
    from IPython.display import display

    display(figure(captions, title))
    own = widgets.Text(placeholder="a caption of your own, then Enter", continuous_update=False, description="draw",
                       layout={"width": "30em"})  # fmt: skip
    place = widgets.Output()

    def show(_) -> None:
        place.clear_output(wait=True)
        with place:  # errors appear here, too
            if caption := own.value.strip():
                display(figure([caption], caption))

    own.observe(show, "value")
    return widgets.VBox([own, place])
