"""Experiments: every cell computes, rows are stored as they come, and stored rows are what the code finds today."""

from functools import lru_cache

import numpy as np
import pytest
import torch

from uniforget_lib import Mask, Report, UniForget, evaluate, experiments, locate
from uniforget_lib.experiments import Lab, attacks, causes, locators, pruning, recipe, unlearning
from uniforget_lib.testbed import CALIBRATION, FAMILIES


@lru_cache
def shipped(family):
    return Lab.load(family)


def small_lab(**options):
    """A lab that draws little, with the copy limit of the whole one."""
    config = UniForget(**CALIBRATION | {"mask_steps": options.pop("mask_steps"), "batch": 2})
    lab = Lab.load("flux", seeds=(0,), config=config, **options)
    lab.limit = shipped("flux").limit
    return lab


@pytest.fixture(scope="module")
def lab():
    return small_lab(neutral=4, train=4, mask_steps=2)


KINDS_OF_CELLS = {  # experiments whose cells are not all alike, and some of every kind
    "design": lambda k: k["method"] == "uce",
    "growth": lambda k: True,
    "mitigated": lambda k: k["method"] in ("wen", "safe guidance, weak", "uniforget"),
    "stressed": lambda k: (k["method"], k["pruning"]) in (("none", "before"), ("twin", "never")),
    "removal": lambda k: k["arm"] in ("uniforget, retrained", "uniforget, adversarial"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS_OF_CELLS)
def test_every_kind_of_cell_computes(name, tmp_path, monkeypatch):
    lab = small_lab(neutral=2, train=8, mask_steps=1)
    make, chosen = experiments.EXPERIMENTS[name], KINDS_OF_CELLS[name]
    few = {"GRID": {"uce": unlearning.GRID["uce"]}, "DRAWS": 2, "TOLD": (1,)}
    small = {"EFFORTS": {"paraphrase": 1, "dori": (0, 1), "relearn": (0, 1), "memora": (0, 1)}, "RETRAINED": 1,
             "TARGETS": dict.fromkeys(attacks.TARGETS, 2), "METHODS": ("none", "twin"),
             "ADVERSARIAL": {"rounds": 1, "searched": 1, "steps": 1}}  # fmt: skip
    for module, changes in ((unlearning, few), (attacks, small)):
        for attribute, value in changes.items():
            monkeypatch.setattr(module, attribute, value)
    monkeypatch.setitem(experiments.EXPERIMENTS, name, lambda lab: [(k, c) for k, c in make(lab) if chosen(k)])
    keys = [key for key, _ in make(lab) if chosen(key)]
    rows = experiments.run(name, lab, tmp_path).rows
    assert len(rows) == len(keys) >= 2 and all(key.items() <= row.items() for key, row in zip(keys, rows))
    for row in rows:
        estimates = [v for v in row.values() if isinstance(v, evaluate.Estimate)]
        assert estimates and all(-1 <= e.low <= e.mean <= e.high <= 1 for e in estimates)
    if name == "stressed":
        assert all({"planted 0", "planted 1", "control 1", "excess"} <= row.keys() for row in rows)
    if name == "design":
        assert ["shown - method" in row for row in rows] == [row["pruning"] != "never" for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in experiments.EXPERIMENTS if n not in KINDS_OF_CELLS])
def test_every_experiment_gives_rows_with_intervals(lab, name, tmp_path, monkeypatch):
    monkeypatch.setitem(pruning.EFFORTS, "flux", (0, 1))  # a retraining of one step, and an attack of one
    monkeypatch.setitem(pruning.ATTACK, "efforts", (0, 1))
    monkeypatch.setattr(unlearning, "GRID", {"uce": ("strength", (0.5, 5.0))})  # the one that takes no time
    monkeypatch.setattr(attacks, "LONG", (0, 1))
    keys = [tuple(key.items()) for key, _ in experiments.EXPERIMENTS[name](lab)]
    assert len(set(keys)) == len(keys) > 1
    report = experiments.run(name, lab, tmp_path, limit=2)
    assert len(report.rows) == 2
    for row, key in zip(report.rows, keys):
        assert dict(key).items() <= row.items() and row["family"] == "flux" and row["library"]
        estimates = [v for v in row.values() if isinstance(v, evaluate.Estimate)]
        assert (estimates or name == "overlap") and all(e.low <= e.mean <= e.high for e in estimates)


def test_a_run_goes_on_where_it_was(lab, tmp_path, monkeypatch):
    calls = []

    def toy(lab):
        for k in range(3):
            yield {"k": k}, lambda k=k: calls.append(k) or {"value": k**2}

    monkeypatch.setitem(experiments.EXPERIMENTS, "toy", toy)
    experiments.run("toy", lab, tmp_path, limit=2)
    report = experiments.run("toy", lab, tmp_path)
    assert calls == [0, 1, 2] and [row["value"] for row in report.rows] == [0, 1, 4]
    assert experiments.stored("toy", tmp_path).rows == report.rows
    for family, left in (("unet", 3), ("flux", 0)):
        experiments.forget("toy", family, tmp_path)
        assert len(experiments.stored("toy", tmp_path).rows) == left
    with pytest.raises(ValueError, match="'other' has no results"):
        experiments.stored("other", tmp_path)
    with pytest.raises(ValueError, match="experiment 'other'"):
        experiments.run("other", lab, tmp_path)


def test_nobody_is_told_what_is_tested(lab):
    tested = set(lab.study.captions) | set(lab.study.neutral) | set(lab.elsewhere.neutral)
    told = set(lab.captions()) | set(lab.prompts()) | set(lab.prompts("paper"))
    assert not tested & told
    words = set(" ".join(recipe.random_words(lab, 64, without=recipe.names(lab))).split())
    assert words and not words & recipe.names(lab)
    assert set(" ".join(recipe.random_words(lab, 64)).split()) & recipe.names(lab)


def test_overlap_of_masks():
    a, b = (Mask({"x": torch.tensor(v), "y": torch.ones(4)}) for v in ([0.0, 0, 1, 1], [0.0, 1, 0, 1]))
    assert a.overlap(b) == pytest.approx(1 / 3) and a.overlap(a) == 1
    assert a.overlap_by_chance(b) == pytest.approx(1 / 3)  # a quarter of the site in both, three quarters in either


def test_a_study_takes_masks_by_step_models_and_pictures(lab):
    study, adapter = lab.study, lab.bed.adapter
    mask = locate.random(adapter).mask(ratio=0.1)
    one = study.outcome(mask)
    assert np.array_equal(study.outcome([mask] * 4).neutral_change, one.neutral_change)
    ones = Mask.ones(adapter.sites(("ffn", "norm")), adapter.fingerprint)
    some = study.outcome([ones, ones, mask, mask]).neutral_change.mean()
    assert 0 < some < one.neutral_change.mean()
    twin = study.outcome(model=lab.twin.adapter)
    assert twin.copied.mean() == 0 and twin.to_twin.max() == 0
    assert np.array_equal(study.measure(study.plain).correct, study.outcome().correct)


def test_a_blur_takes_as_much_detail_as_the_mask(lab):
    mask = locate.random(lab.bed.adapter).mask(ratio=0.2)
    masked, blurred = lab.study.outcome(mask), causes.blurred(lab, mask)
    assert blurred.detail.mean() == pytest.approx(min(masked.detail.mean(), lab.study.outcome().detail.mean()), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES if (experiments.RESULTS / "locators.json").is_file() else ())
def test_stored_rows_are_found_again(family):
    """The unpruned model and a mask of magnitudes, with the settings of the stored run: nothing hidden decides them."""
    lab, ratio = shipped(family), locators.RATIOS[family][1]
    rows = {(r["method"], r["ratio"]): r for r in experiments.stored("locators").rows
            if r["family"] == family and r["scope"] == "all"}  # fmt: skip
    mask = locators.score(lab, "magnitude").mask(ratio=ratio)
    for row, chosen in ((rows["unpruned", 0.0], None), (rows["magnitude", ratio], mask)):
        found = lab.study.outcome(chosen).row()
        for name in ("copied", "correct", "neutral_change", "detail"):
            assert found[name].mean == pytest.approx(row[name].mean, abs=0.03)


@pytest.mark.parametrize("name", sorted(p.stem for p in experiments.RESULTS.glob("*.json")))
def test_stored_experiments_are_complete(name):
    report = experiments.stored(name)
    assert isinstance(report, Report) and {"seed", "device", "library", "versions"} <= report.meta.keys()
    for family in {row["family"] for row in report.rows}:
        keys = [{"family": family} | key for key, _ in experiments.EXPERIMENTS[name](shipped(family))]
        assert all(any(key.items() <= row.items() for row in report.rows) for key in keys)
