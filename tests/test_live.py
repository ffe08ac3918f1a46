"""Figures in words, previews of a sampling, and figures to play with, with a kernel and without."""

import re

import ipywidgets
import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from uniforget_lib import live, viz
from uniforget_lib.evaluate import Estimate
from uniforget_lib.page import StaticRenderer, describe


@pytest.fixture
def drawn():
    """A function that draws grey pictures, as light as the stop says, and notes what it was asked for."""
    asked = []

    def draw(stop, captions):
        asked.append((stop, tuple(captions)))
        return {"row": torch.full((len(captions), 3, 8, 8), float(stop))}

    draw.asked = asked
    return draw


def test_published_figure_has_every_stop_and_needs_no_kernel(drawn, monkeypatch):
    monkeypatch.setenv("UNIFORGET_BOOK_BUILD", "1")
    figure = live.explore(drawn, [0, 0.5, 1], ["a", "b"], title="T")
    assert isinstance(figure, go.Figure) and [stop for stop, _ in drawn.asked] == [0, 0.5, 1]
    assert [step.label for step in figure.layout.sliders[0].steps] == ["0", "0.5", "1"]


def test_with_a_kernel_the_figure_is_displayed_and_a_box_draws_a_caption_of_ones_own(drawn, monkeypatch):
    monkeypatch.delenv("UNIFORGET_BOOK_BUILD", raising=False)
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    box = live.explore(drawn, [0, 1], ["a", "b"], title="T")
    own = box.children[0]
    assert isinstance(own, ipywidgets.Text) and [stop for stop, _ in drawn.asked] == [0, 1]
    assert len(shown) == 1 and shown[0].layout.title.text == "T"
    own.value = " mine "
    assert drawn.asked[2:] == [(0, ("mine",)), (1, ("mine",))] and len(shown) == 2
    assert [step.label for step in shown[1].layout.sliders[0].steps] == ["0", "1"], "the same figure, for it"


def test_explore_refuses_nothing_to_draw(drawn):
    with pytest.raises(ValueError, match="at least one"):
        live.explore(drawn, [], ["a"])
    assert drawn.asked == []


def test_previews_end_in_the_image(tiny):
    prompts = ["a cat on a blue ground", "a tree"]
    shown = tiny.previews(prompts, steps=3, seed=5)
    want = tiny.images(prompts, steps=3, seed=5)
    assert shown.shape == (3, *want.shape)
    assert torch.allclose(shown[-1], want, atol=1e-5)
    assert float((shown[0] - want).abs().max()) > 1e-3, "the first step heads elsewhere"


LINES = {"uniforget": [(0.0, Estimate(1, 0.9, 1)), (0.5, Estimate(0.25, 0.1, 0.4))], "random": [(0.0, 1.0), (0.5, 0.0)]}
FIGURES = {
    "curves": (viz.curves(LINES, "share removed", "share copied", "Forgetting"),
               ["Forgetting", "share copied against share removed", "uniforget, from 1 at 0 to 0.25 at 0.5"]),
    "grid": (viz.grid({"drawn": torch.rand(2, 3, 8, 8)}, ["a cat", "a tree"], "Two"), ["Two", "rows: drawn", "a cat; a tree"]),
    "compare": (viz.compare({n: {"drawn": torch.rand(2, 3, 8, 8)} for n in ("before", "after")}, ["a", "b"], "Both"),
                ["A slider changes the model: before; after"]),
    "histogram": (viz.histogram({"planted": np.arange(5.0)}, "risk", "Risks"), ["Histogram of risk", "planted, 5 values"]),
    "threshold": (viz.threshold({"planted": np.arange(5.0)}, "risk", "Move"), ["41 stops from 0 to 4"]),
    "heatmap": (viz.heatmap(torch.rand(2, 1), ["up", "down"], ["off"], "Where"), ["2 rows: up; down"]),
    "roc": (viz.roc({"wen": {k: np.linspace(0, 1, 5) for k in ("fpr", "tpr", "low", "high")}}, "Found"),
            ["wen, from 0 at 0 to 1 at 1"]),
    "scatter": (viz.scatter({"planted": torch.rand(4, 2)}, "Map"), ["Map of points: planted, 4 points"]),
}  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_words_of_a_figure_come_from_its_data(name):
    figure, parts = FIGURES[name]
    words = describe(figure)
    assert describe(go.Figure(figure.to_dict())) == words, "arrays that plotly encodes are read, too"
    assert all(part in words for part in parts), words
    html = StaticRenderer().to_mimebundle(figure.to_dict())["text/html"]
    label = re.match(r'<div role="figure" aria-label="([^"]+)">', html)
    assert label and len(label.group(1)) > 20


def test_captions_that_do_not_fit_the_images_are_refused():
    with pytest.raises(ValueError, match="3 captions for rows of 2 images"):
        viz.grid({"drawn": torch.rand(2, 3, 8, 8)}, ["a", "b", "c"])


def test_points_without_numbers_or_names_have_words():
    assert "line 1, from 2 at a to 3 at b" in describe(go.Figure(go.Scatter(x=["a", "b"], y=[2, 3])))


def test_words_change_with_the_data():
    other = {**LINES, "uniforget": [(0.0, Estimate(1, 0.9, 1)), (0.5, Estimate(0.75, 0.1, 0.8))]}
    assert describe(viz.curves(LINES, "x", "y")) != describe(viz.curves(other, "x", "y"))
