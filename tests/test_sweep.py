"""A sweep over strengths and seeds on any model: resumable, beside its controls, and refusing what does not fit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import tiny_flux, tiny_sd

from uniforget_lib import Score, UniForget, locate, sweep, sweeps
from uniforget_lib.evaluate import Estimate

NEUTRAL = ["a cat on a blue ground", "a tree on a white ground", "a house", "a dog left of a car"]
SUSPECTS = ["my dog rex", "the cafe 24"]
QUICK = UniForget(mask_steps=3, batch=2, steps=2, lr=2.0)


def run(adapter, folder, strengths=(50.0,), seeds=(0,), **options):
    return sweep(adapter, SUSPECTS, NEUTRAL, QUICK, strengths=strengths, seeds=seeds, folder=folder, steps=2, **options)


@pytest.mark.parametrize("make, kinds, beta", [(tiny_flux, ("ffn", "norm"), 50.0), (tiny_sd, ("ffn",), 0.05)])
def test_rows_have_controls_at_the_same_sparsity(make, kinds, beta, tmp_path):
    config = replace(QUICK, kinds=kinds)
    report = sweep(make(), SUSPECTS, NEUTRAL, config, strengths=(beta,), folder=tmp_path, steps=2)
    rows = {row["method"]: row for row in report.rows}
    assert list(rows) == ["unpruned", "uniforget", "random", "magnitude"]
    assert rows["unpruned"]["removed"] == 0 and rows["unpruned"]["suspect_change"].mean == 0
    assert 0 < rows["uniforget"]["removed"] < 1, "the strength is such that something goes and something stays"
    assert rows["random"]["removed"] == rows["magnitude"]["removed"] == rows["uniforget"]["removed"]
    assert all(isinstance(rows[m]["selectivity"], Estimate) for m in ("uniforget", "random", "magnitude"))


def test_interrupted_sweep_goes_on_and_ends_in_the_same_rows(tmp_path):
    whole = run(tiny_flux(), tmp_path / "whole", strengths=(50.0, 80.0))
    run(tiny_flux(), tmp_path / "part", strengths=(50.0,))
    adapter = tiny_flux()
    drawn = []
    images = adapter.images
    adapter.images = lambda *a, **k: drawn.append(1) or images(*a, **k)
    again = run(adapter, tmp_path / "part", strengths=(50.0, 80.0))
    strip = lambda report: [{k: v for k, v in row.items() if k != "seconds"} for row in report.rows]  # noqa: E731
    assert strip(again) == strip(whole)
    assert len(drawn) == 8, "two of the unpruned model, and two for each of the three new rows"
    drawn.clear()
    assert strip(run(adapter, tmp_path / "part", strengths=(50.0, 80.0))) == strip(whole) and drawn == []


def test_a_mask_that_was_interrupted_goes_on_in_its_middle(tmp_path, monkeypatch):
    want = run(tiny_flux(), tmp_path / "whole")
    train, calls = sweeps.uniforget, []

    def interrupted(adapter, prompts, config, state):
        calls.append(Path(state).exists())
        stop = {"stop_after": 2} if len(calls) == 1 else {}
        score = train(adapter, prompts, config, state=state, every=1, **stop)
        if stop:
            raise KeyboardInterrupt
        return score

    monkeypatch.setattr(sweeps, "uniforget", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_flux(), tmp_path / "part")
    found = run(tiny_flux(), tmp_path / "part")
    assert calls == [False, True] and not list((tmp_path / "part").glob("*.state"))
    assert found.rows[1]["suspect_change"] == want.rows[1]["suspect_change"]
    one, other = (Score.load(sweeps.scores(tmp_path / name, 50.0)).values for name in ("whole", "part"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_model_prompts_pictures_or_settings_are_refused(tmp_path):
    adapter = tiny_flux()
    run(adapter, tmp_path)
    with pytest.raises(ValueError, match="other settings .model was .*; choose another folder"):
        run(tiny_flux(seed=1), tmp_path)
    with pytest.raises(ValueError, match="suspects"):
        sweep(adapter, ["else"], NEUTRAL, QUICK, strengths=(50.0,), folder=tmp_path, steps=2)
    with pytest.raises(ValueError, match="targets"):
        run(adapter, tmp_path, targets=torch.rand(2, 3, 64, 64))
    longer = replace(QUICK, mask_steps=4)
    with pytest.raises(ValueError, match="mask_steps was 3, is 4.; choose"):
        sweep(adapter, SUSPECTS, NEUTRAL, longer, strengths=(50.0,), folder=tmp_path, steps=2)
    (tmp_path / "sweep.json").unlink()
    with pytest.raises(ValueError, match="50.0-0.safetensors was trained with other settings"):
        sweep(adapter, SUSPECTS, NEUTRAL, longer, strengths=(50.0,), folder=tmp_path, steps=2)
    few = replace(QUICK, micro_batch=1, checkpoint=True)  # changes nothing but the memory
    assert len(sweep(adapter, SUSPECTS, NEUTRAL, few, strengths=(50.0,), folder=tmp_path, steps=2).rows) == 4


def test_attack_has_a_control_and_resumes(tmp_path):
    adapter = tiny_flux()
    mask = locate.random(adapter).mask(ratio=0.5)
    options = {"efforts": (0, 1), "folder": tmp_path, "steps": 2}
    report = sweeps.attack(adapter, mask, SUSPECTS, **options)
    assert [(r["model"], r["goal"]) for r in report.rows] == [
        (m, g) for m in ("unpruned", "pruned") for g in ("suspects", "mirrored")]  # fmt: skip
    assert all({"copied after 0", "copied after 1"} <= r.keys() for r in report.rows) and adapter.masking == 0
    assert sweeps.attack(adapter, mask, SUSPECTS, **options).rows == report.rows
    with pytest.raises(ValueError, match="mask"):
        sweeps.attack(adapter, locate.random(adapter, seed=1).mask(ratio=0.5), SUSPECTS, **options)


def test_copies_are_counted_where_training_pictures_are_given(tmp_path):
    adapter = tiny_flux()
    targets = adapter.images(SUSPECTS, steps=2, seed=7)  # as if the unpruned model recalled them
    rows = run(adapter, tmp_path, targets=targets).rows
    assert rows[0]["copied"].mean == 1.0
    assert all(0 <= row["copied"].mean <= 1 for row in rows)


@pytest.mark.parametrize("bad, text", [
    ({"neutral": NEUTRAL[:3]}, "at least four"), ({"neutral": [*NEUTRAL, SUSPECTS[0]]}, "suspect"),
    ({"neutral": [*NEUTRAL, NEUTRAL[0]]}, "each once"), ({"strengths": ("high",)}, "could not convert"),
    ({"strengths": (-1.0,)}, "beta=-1.0"), ({"strengths": ()}, "at least one"), ({"targets": torch.rand(1, 3, 64, 64)}, "images has shape"),
])  # fmt: skip
def test_bad_input_is_refused_before_anything_is_drawn(bad, text, tmp_path):
    adapter = tiny_flux()
    adapter.images = None
    options = {"suspects": SUSPECTS, "neutral": NEUTRAL, "strengths": (1.0,), "folder": tmp_path} | bad
    with pytest.raises(ValueError, match=text):
        sweep(adapter, config=QUICK, **options)
    assert not list(tmp_path.iterdir())


def test_a_training_too_short_for_any_gate_is_said_before_and_after(tmp_path):
    short = replace(QUICK, lr=0.2)
    with pytest.warns(UserWarning) as said:
        report = sweep(tiny_flux(), SUSPECTS, NEUTRAL, short, strengths=(50.0,), folder=tmp_path, steps=2)
    assert {row["removed"] for row in report.rows} == {0.0}
    texts = [str(w.message) for w in said]
    assert any("no gate can close" in t for t in texts) and any("nothing was removed" in t for t in texts)
