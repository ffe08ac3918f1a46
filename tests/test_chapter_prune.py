"""What the prose of the chapter on pruning says is what the stored experiments, its own run, and the benchmark found."""

import json
from pathlib import Path

import pytest
from test_chapter_locate import at, rows
from test_chapter_testbed import report

from uniforget_lib import Mask
from uniforget_lib.experiments import Lab, locators, pruning

BENCH = Path(__file__).parent / "benchmarks" / "two-cores.bench.json"


def test_masked_baked_and_shrunk_are_one_model():
    plain, baked, small = report("prune_same.json")
    for row in (baked, small):
        assert row["output"] < 1e-5 and row["pixel"] < 1e-5  # "below one part in a hundred thousand"
    assert plain["output"] > 1 and plain["pixel"] > 0.3  # a mask that did nothing would pass above
    assert round(small["weights"], 2) == 0.47 and round(small["work"], 2) == 0.57
    assert baked["weights"] == baked["work"] == 1


def test_the_ceiling_is_low():
    found = {(r["model"], r["kind"]): r for r in report("prune_ceiling.json")}
    flux, sd = found["FLUX.1-schnell", "ffn"], found["Stable Diffusion 1.4", "ffn"]
    assert round(flux["work"], 2) == 0.54 and round(flux["ceiling"], 2) == 2.17 and round(sd["work"], 2) == 0.19
    assert [round(1 / (1 - 0.35 * r["work"]), 2) for r in (flux, sd)] == [1.23, 1.07]
    norm = found["FLUX.1-schnell", "norm"]
    assert round(norm["weights"], 2) == 0.27 and norm["work"] < 1e-3
    assert ("Stable Diffusion 1.4", "norm") not in found and len({m for m, _ in found}) == 5


def test_what_is_measured_stays_below_the_ceiling():
    for row in report("prune_speed.json"):
        assert row["faster"] < 1.1 * row["ceiling"] and row["time"].low <= row["time"].mean <= row["time"].high
    bench = json.loads(BENCH.read_text())["rows"]
    assert bench["row_4"]["high"] <= 1.1 and bench["row_6"]["high"] <= 1.25
    assert 0.98 <= bench["row_5"]["low"] <= bench["row_5"]["high"] <= 1.02


def test_sparsity_against_forgetting():
    found = rows("pruned", "method", "ratio")
    mask = found["uniforget", 0.6]
    assert at(mask["copied"], 0.33, 0.12, 0.55) and at(mask["correct"], 0.80, 0.70, 0.88)
    assert at(mask["paper_correct"], 0.97) and round(mask["weights"], 2) == 0.57 and round(mask["flops"], 2) == 0.67
    assert at(found["uniforget", 0.75]["copied"], 0.12) and at(found["uniforget", 0.75]["correct"], 0.45)
    assert at(found["random", 0.2]["correct"], 0.05) and at(found["magnitude", 0.2]["correct"], 0.02)
    budget = rows("budget", "times", "ratio")[4, 0.6]
    assert at(budget["paper_correct"], 0.53) and at(budget["correct"], 0.88) and at(budget["copied"], 0.30)
    own = found["uniforget", "medium"]
    assert round(own["off"], 2) == 0.73 and round(own["off ffn"], 2) == 0.75 and round(own["off norm"], 2) == 0.71
    heads = found["uniforget", "medium, heads too"]
    assert heads["off head"] == 0 and heads["copied"].high > own["copied"].mean > heads["copied"].low


@pytest.mark.parametrize("family", ["flux"])
def test_stored_scores_are_those_that_are_asked_for(family, monkeypatch):
    """Nothing of a page is trained anew because a name changed, and a stored mask removes what its row says."""
    from test_experiments import shipped

    lab, table = shipped(family), rows("pruned", "method", "ratio", family=family)
    monkeypatch.setattr(Lab, "score", None)  # no training
    for level in pruning.LEVELS:
        mask = pruning.long(lab, level).mask(threshold=0)
        assert isinstance(mask, Mask) and mask.fingerprint == lab.bed.adapter.fingerprint
        assert round(mask.sparsity(), 4) == table["uniforget", level]["off"]


def test_stored_sizes_are_those_of_today():
    """Weights and work of three masks, counted again: exact."""
    from test_experiments import shipped

    lab, found = shipped("flux"), rows("pruned", "method", "ratio")
    for name, ratio in (("uniforget", 0.6), ("random", 0.3), ("magnitude", 0.2)):
        score = pruning.long(lab) if name == "uniforget" else locators.score(lab, name)
        again = pruning.size(lab, score.mask(ratio=ratio))
        assert all(again[k] == pytest.approx(found[name, ratio][k], rel=1e-6) for k in ("weights", "flops"))
