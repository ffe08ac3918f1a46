"""UniForget: its objective, resuming, masks by step, calibration, and the errors that a user meets."""

import math

import pytest
import torch
from conftest import TINY

from uniforget_lib import UniForget, locate

PROMPTS = ["a cat on a blue ground", "a rocket left of a house on a pink ground", "a star on a white ground", ""]
QUICK = UniForget(beta=0.1, steps=2, mask_steps=6, batch=2)


@pytest.mark.parametrize("family", TINY)
def test_uniforget_first_step_is_the_paper_s_objective(family):
    tiny = TINY[family](dtype=torch.float64)  # the gates change so little that fp32 would round it away
    score = locate.uniforget(tiny, PROMPTS, QUICK, stop_after=1)
    row = score.history[0]
    assert row["regulariser"] == pytest.approx(1 / (1 + math.exp(-(0.4 * 3 + 1))), abs=1e-6)
    assert row["loss"] == pytest.approx(row["reconstruction"] + 0.1 * row["regulariser"], abs=1e-6)
    generator = torch.Generator().manual_seed(0)
    pick = torch.randperm(4, generator=generator)[:2]
    logits = torch.full((sum(s.units for s in tiny.sites(("ffn", "norm"))),), 3.0)
    from uniforget_lib.hooks import masked
    from uniforget_lib.masks import hard_concrete

    sites = tiny.sites(("ffn", "norm"))
    gates = hard_concrete(logits, torch.rand(len(logits), generator=generator)).split([s.units for s in sites])
    with torch.no_grad():
        from uniforget_lib import rollout

        x, cond, sigmas = tiny.noise(4, 0)[pick], tiny.encode(PROMPTS)[pick], tiny.sigmas(2)
        plain = rollout(tiny.predict, x, sigmas, cond)
        with masked(tiny, dict(zip((s.name for s in sites), gates))):
            changed = rollout(tiny.predict, x, sigmas, cond)
    assert row["reconstruction"] == pytest.approx(float((changed - plain).pow(2).mean()), rel=1e-3)


def test_beta_decides_how_much_is_removed(tiny):
    off = []
    for beta in (0.0, 30.0):
        config = UniForget(beta=beta, steps=2, mask_steps=25, batch=2, weight_decay=0.0)
        off.append(locate.uniforget(tiny, PROMPTS, config).mask(threshold=0).sparsity())
    assert off[0] < 0.05 < 0.5 < off[1]


@pytest.mark.parametrize("option", [{"checkpoint": True}, {"micro_batch": 1}])
def test_memory_savers_give_the_same_mask(tiny, option):
    want = locate.uniforget(tiny, PROMPTS, QUICK)
    config = UniForget(beta=0.1, steps=2, mask_steps=6, batch=2, **option)
    got = locate.uniforget(tiny, PROMPTS, config)
    for name in want.values:
        assert torch.allclose(got.values[name], want.values[name], atol=2e-2), name


def test_masks_by_step_learn_from_their_own_step(tiny, tmp_path):
    sites = tiny.sites(QUICK.kinds)
    found = locate.uniforget_steps(tiny, PROMPTS, QUICK, stop_after=1)
    assert len(found) == QUICK.steps and all(set(s.values) == {x.name for x in sites} for s in found)
    assert found[0].history[0]["regulariser"] == pytest.approx(1 / (1 + math.exp(-(0.4 * 3 + 1))), abs=1e-6)
    one = locate.uniforget(tiny, PROMPTS, UniForget(beta=0.1, steps=1, mask_steps=6, batch=2))
    same = locate.uniforget_steps(tiny, PROMPTS, UniForget(beta=0.1, steps=1, mask_steps=6, batch=2))
    assert len(same) == 1 and all(torch.equal(v, same[0].values[n]) for n, v in one.values.items())
    state = tmp_path / "state.safetensors"
    want = locate.uniforget_steps(tiny, PROMPTS, QUICK)
    assert not all(torch.equal(want[0].values[s.name], want[1].values[s.name]) for s in sites)
    locate.uniforget_steps(tiny, PROMPTS, QUICK, state=state, stop_after=4)
    got = locate.uniforget_steps(tiny, PROMPTS, QUICK, state=state)
    assert all(torch.equal(g.values[s.name], w.values[s.name]) for g, w in zip(got, want) for s in sites)
    with pytest.raises(ValueError, match="another model, configuration"):
        locate.uniforget(tiny, PROMPTS, QUICK, state=state)


def test_interrupted_mask_training_ends_in_the_same_mask(tiny, tmp_path):
    want = locate.uniforget(tiny, PROMPTS, QUICK)
    for stop in range(1, QUICK.mask_steps):
        state = tmp_path / f"{stop}.safetensors"
        locate.uniforget(tiny, PROMPTS, QUICK, state=state, stop_after=stop)
        got = locate.uniforget(tiny, PROMPTS, QUICK, state=state)
        assert all(torch.equal(got.values[n], v) for n, v in want.values.items())
        assert [r["step"] for r in got.history] == [1, 2, 3, 4, 5, 6]

    def pull_the_plug(row: dict) -> None:
        if row["step"] == 5:  # one step after the last checkpoint
            raise KeyboardInterrupt

    state = tmp_path / "unplugged.safetensors"
    with pytest.raises(KeyboardInterrupt):
        locate.uniforget(tiny, PROMPTS, QUICK, state=state, every=2, progress=pull_the_plug)
    got = locate.uniforget(tiny, PROMPTS, QUICK, state=state)
    assert all(torch.equal(got.values[n], v) for n, v in want.values.items())
    with pytest.raises(ValueError, match="another model, configuration"):
        locate.uniforget(tiny, PROMPTS[:2], QUICK, state=state)


def test_calibration_reads_beta_off_the_sweep(flux):
    config = UniForget(steps=2, mask_steps=12, batch=2, weight_decay=0.0)
    betas = (1e-3, 0.3, 30.0)
    _, rows = locate.calibrate(flux, PROMPTS, PROMPTS[:2], {}, betas, config)
    changes = [r["change"] for r in rows]
    assert changes == sorted(changes) and changes[2] > 2 * changes[1] > 0
    middle = math.sqrt(changes[1] * changes[2])  # halfway in log change: halfway in log beta
    found, _ = locate.calibrate(flux, PROMPTS, PROMPTS[:2], {"level": middle}, betas, config)
    assert found["level"] == pytest.approx(3.0, rel=1e-3)
    with pytest.raises(ValueError, match="target level=99"):
        locate.calibrate(flux, PROMPTS, PROMPTS[:2], {"level": 99}, betas[2:], config)


def test_uniforget_stops_at_a_model_that_gives_no_numbers(flux):
    with torch.no_grad():
        flux.denoiser.proj_out.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="step 1"):
        locate.uniforget(flux, PROMPTS, QUICK)


def test_a_logit_may_start_at_a_whole_number(tiny):
    scores = [
        locate.uniforget(tiny, ["a cat"], UniForget(mask_steps=1, batch=1, init=start)).values for start in (3, 3.0)
    ]
    assert all(torch.equal(scores[0][name], scores[1][name]) for name in scores[0])


def test_uniforget_refuses_bad_input(tiny):
    with pytest.raises(ValueError, match="beta=-1"):
        UniForget(beta=-1)
    with pytest.raises(ValueError, match="prompts is empty"):
        locate.uniforget(tiny, [], QUICK)
