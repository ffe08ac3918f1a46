"""Figures to play with: a slider that draws what it is asked for in Jupyter and Colab (ipywidgets), and that has everything
drawn beforehand in the published book, which has no kernel. Both look alike, because both show `viz.grid`."""

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
    columns: Sequence[str] = (),
    title: str = "",
    of: str = "share removed",
):
    """A slider over ``stops``; ``draw(stop, captions)`` gives named rows of images for each.

    In the published book: a plotly figure with all stops. With a kernel: a widget that draws a stop when it is chosen (once),
    and has a box for a caption of your own, which is drawn beside the others.

    Args:
        captions: what is drawn at first. columns: what appears on hover, one a column.

    Raises ValueError for no stops or no captions, before anything is drawn.
    """
    stops, captions = list(stops), list(captions)
    if not stops or not captions:
        raise ValueError("explore needs at least one stop and one caption")
    if published():
        return viz.compare({_name(s): draw(s, captions) for s in stops}, columns, title, of)
    return _widget(draw, stops, captions, columns, title, of)


def _name(stop) -> str:
    return f"{stop:g}" if isinstance(stop, (int, float)) else str(stop)


def _widget(draw, stops: list, captions: list[str], columns: Sequence[str], title: str, of: str):
    import ipywidgets as widgets
    from IPython.display import display

    slider = widgets.SelectionSlider(options=[(_name(s), s) for s in stops], description=of, continuous_update=False,
                                     style={"description_width": "initial"})  # fmt: skip
    own = widgets.Text(placeholder="a caption of your own, then Enter", continuous_update=False, description="add",
                       layout={"width": "28em"})  # fmt: skip
    figure, drawn = widgets.Output(), {}

    def show(*_) -> None:
        asked = (slider.value, own.value.strip())
        if asked not in drawn:
            drawn[asked] = viz.grid(draw(asked[0], captions + [asked[1]] * bool(asked[1])), columns, title)
        figure.clear_output(wait=True)
        with figure:
            display(drawn[asked])

    slider.observe(show, "value")
    own.observe(show, "value")
    show()
    return widgets.VBox([widgets.HBox([slider, own]), figure])
