"""What the prose of the chapter on pruning says is what the stored experiments, its own run, and the benchmark found."""

import json
from pathlib import Path

import pytest
from test_chapter_locate import at, rows
from test_chapter_testbed import report

from uniforget_lib import Mask, evaluate, masked
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
        assert row["faster"] < 1.1 * row["at_most"] and row["time"].low <= row["time"].mean <= row["time"].high
    bench = json.loads(BENCH.read_text())["rows"]
    assert bench["row_4"]["high"] <= 1.1 and bench["row_6"]["high"] <= 1.25
    assert 0.98 <= bench["row_5"]["low"] <= bench["row_5"]["high"] <= 1.02


def test_sparsity_against_forgetting():
    found = rows("pruned", "method", "ratio")
    mask = found["uniforget", 0.6]
    assert at(mask["copied"], 0.33, 0.12, 0.55) and at(mask["correct"], 0.80, 0.70, 0.88)
    assert at(mask["paper_correct"], 0.97) and round(mask["weights"], 2) == 0.57 and round(mask["flops"], 2) == 0.67
    assert at(found["uniforget", 0.75]["copied"], 0.12) and at(found["uniforget", 0.75]["correct"], 0.45)
    assert at(found["random", 0.2]["copied"], 0.50, 0.30, 0.70)
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
    monkeypatch.setattr(pruning, "uniforget", None)  # no training
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


def retrained(**conditions):
    return rows("retrained", "mask", "steps", "data", "weights", **conditions)


def test_retraining_repairs_what_uniforget_pruned():
    found = retrained()

    def after(mask, steps, column, data="real", weights="all"):
        return found[mask, steps, data, weights][column]

    for steps, right, copied in ((0, (0.45, 0.33, 0.56), (0.12, 0, 0.30)), (100, (0.75, 0.65, 0.84), (0.15, 0, 0.30)),
                                 (400, (0.83, 0.74, 0.91), (0.15, 0, 0.30)), (1600, (0.86, 0.78, 0.94), (0.15, 0, 0.30))):  # fmt: skip
        assert at(after("uniforget", steps, "correct"), *right) and at(after("uniforget", steps, "copied"), *copied)
    assert at(after("uniforget", 0, "paper_correct"), 0.70) and at(after("uniforget", 400, "paper_correct"), 1.0)
    assert at(after("unpruned", 0, "correct"), 0.88) and at(after("unpruned", 400, "copied"), 1.0)
    assert at(after("unpruned", 1600, "copied"), 0.93)
    assert at(after("random", 0, "correct"), 0) and at(after("random", 0, "copied"), 0)
    assert at(after("random", 400, "correct"), 0.04, 0, 0.09)
    assert at(after("random", 1600, "correct"), 0.38, 0.27, 0.49) and at(after("magnitude", 400, "correct"), 0.20)
    assert at(after("magnitude", 1600, "correct"), 0.73, 0.63, 0.83) and at(after("magnitude", 1600, "copied"), 0.07)
    for name in ("random", "magnitude"):  # "leave nothing right", "memorized ones do not" come back
        assert after(name, 0, "correct").mean < 0.02
        assert all(after(name, steps, "copied").mean < 0.1 for steps in pruning.EFFORTS["flux"])
    assert at(after("uniforget", 400, "correct", data="drawn"), 0.80, 0.71, 0.89)
    assert at(after("uniforget", 400, "correct", weights="LoRA"), 0.60, 0.49, 0.71)
    sizes = {round(r["off"], 4) for r in found.values() if r["mask"] != "unpruned"}
    assert len(sizes) == 1  # as many units removed by every method


def test_an_attack_finds_what_captions_do_not():
    found = retrained()
    back = {key[:2]: (row["found again"], row["control found"]) for key, row in found.items() if "found again" in row}
    assert at(back["uniforget", 0][0], 0.15, 0, 0.30) and at(back["uniforget", 0][1], 0)
    assert at(back["uniforget", 400][0], 0.45, 0.25, 0.65) and at(back["uniforget", 400][1], 0.15, 0, 0.30)
    assert at(back["unpruned", 0][1], 0.25, 0.05, 0.45)
    assert at(back["uniforget", 1600][0], 0.35, 0.15, 0.55) and at(back["uniforget", 1600][1], 0.20, 0.05, 0.40)
    assert at(back["magnitude", 1600][0], 0.25, 0.05, 0.45) and at(back["magnitude", 1600][1], 0.20)
    assert at(back["random", 1600][0], 0.25) and at(back["random", 1600][1], 0.25)
    for name in ("random", "magnitude"):  # "draws no copy of anything either"
        assert at(back[name, 0][0], 0) and at(back[name, 0][1], 0)


def test_the_page_s_own_retraining_is_the_stored_one():
    kept, now = report("prune_retrained.json")
    assert now["correct"].mean == pytest.approx(kept["correct"].mean, abs=0.15)  # other machines round otherwise
    assert now["copied"].mean == pytest.approx(kept["copied"].mean, abs=0.15)
    assert now["correct"].mean > 0.6 > 0.5 > now["copied"].mean


def test_what_must_fit():
    found = {r["model"]: r for r in report("prune_memory.json")}
    flux = found["FLUX.1-schnell"]
    assert flux["bf16"] + flux["graph"] < 80 < 2 * flux["bf16"] + flux["graph"]
    assert flux["8 bits"] < 16 and flux["bf16"] > 23  # no room beside it on a card of 24 GB
    for name in ("SDXL", "Stable Diffusion 3 medium"):
        assert found[name]["bf16"] + found[name]["graph"] < 16 < found[name]["bf16"] + 2 * found[name]["graph"]
    sd = found["Stable Diffusion 1.4"]
    assert sd["bf16"] + 2 * sd["graph"] < 16


def test_memorized_pictures_stand_at_once_and_go_first():
    """The four captions of *Strength and step*, two memorized and two neutral ones."""
    lab = Lab.load("flux")
    few = [i.caption for i in lab.bed.planted(at_least=20, split="test")[:10:5]] + lab.bed.neutral(4)[2:]
    shown = {}
    for ratio in (0.0, 0.4, 0.6, 0.9):
        with masked(lab.bed.adapter, pruning.long(lab).mask(ratio=ratio)), lab.bed.adapter.guided(lab.bed.cfg):
            shown[ratio] = lab.bed.adapter.previews(few, steps=lab.bed.steps, seed=0)
    end = shown[0.0][-1]
    first, third = (evaluate.change(shown[0.0][k], end) for k in (0, 2))
    assert first[:2].max() < 0.5 * first[2:].min() and third[2:].max() < 0.1
    for ratio in (0.4, 0.6):
        gone = evaluate.change(shown[ratio][-1], end)
        assert gone[:2].min() > 2 * gone[2:].max()
    assert evaluate.change(shown[0.9][-1], end).min() > 0.4
