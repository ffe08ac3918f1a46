"""Detectors: golden numbers on a model whose answers are known by hand, and what every detector owes its user."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY

from uniforget_lib import detect, evaluate, rollout
from uniforget_lib.hooks import attention, count
from uniforget_lib.models.base import Cond

# At sigma = 1. With x = 1: slope -1 without a prompt, .5 with one, so the gap is 1.5; with x = 2, -2 and 0, so 2.


PROMPTS = ["a cat on a blue ground", "", "a " * 200, "🦉 ¿dónde?", "a cat on a blue ground", "zyzzyva \n\t qux"]


@pytest.mark.parametrize("name", detect.DETECTORS)
def test_detectors_keep_the_contract(tiny, name):
    detector = detect.DETECTORS[name]
    seeds = {"seeds": (3, 4)}
    before = tiny.latents(PROMPTS[:2], steps=1)
    found = detector(tiny, PROMPTS, **seeds)
    assert found.shape == (6,) and found.dtype == torch.float32 and found.device.type == "cpu"
    assert found.isfinite().all()
    assert torch.allclose(detector(tiny, PROMPTS, batch=4, **seeds), found, atol=1e-5, rtol=1e-4)
    assert torch.equal(detector(tiny, PROMPTS, **seeds), found)
    if name != "webster_edges":  # counts pixels
        assert not torch.equal(detector(tiny, PROMPTS, seeds=(5, 6)), found)
    assert torch.equal(tiny.latents(PROMPTS[:2], steps=1), before)
    if name in ("wen", "bright_ending", "jeon", "asthana"):  # they measure what the prompt changes
        same = tiny.family != "sdxl"  # there, guidance is away from zeros
        others = found[[0, 2, 3, 4, 5]].abs().min()
        assert (abs(found[1]) < 0.02 * others) == same and others > 0
    for bad, error in (([], ValueError), ("a cat", TypeError), (["a cat", 3], TypeError)):
        with pytest.raises(error, match="prompts"):
            detector(tiny, bad)
    with pytest.raises(ValueError, match="seeds"):
        detector(tiny, PROMPTS, seeds=())


pytestmark = pytest.mark.filterwarnings("ignore:.*are cut there")
COSTS = {"wen": 2, "ren_e": 2, "ren_d": 20, "bright_ending": 16, "jeon": 4, "asthana": 4, "carlini": 32, "webster": 1,
         "webster_edges": 4}  # fmt: skip


def test_costs_are_those_of_the_docstrings(tiny):
    for name, detector in detect.DETECTORS.items():
        with count(tiny) as forwards:
            detector(tiny, PROMPTS)
        assert forwards[0] == COSTS[name] * len(PROMPTS), name


@pytest.mark.parametrize("name", detect.PIXEL_MAPS)
def test_pixel_maps_lie_on_the_grid(tiny, name):
    found = detect.PIXEL_MAPS[name](tiny, PROMPTS, batch=4)
    side = tiny.grid(tiny.noise(1, 0)).shape[-1]
    assert found.shape[0] == 6 and side % found.shape[1] == 0 and found.isfinite().all() and (found >= 0).all()
    assert torch.allclose(detect.PIXEL_MAPS[name](tiny, PROMPTS, batch=6), found, atol=1e-4, rtol=1e-3)


def test_cross_attention_is_what_the_layer_computes(sd):
    cond, x, sigma = sd.encode(PROMPTS), sd.noise(6, 0), sd.sigmas(4)[1]
    layer = sd.denoiser.get_submodule(sd.text_attention()[0])
    seen = {}
    handles = [part.register_forward_hook(lambda m, args, out, k=key: seen.update({k: out}))
               for key, part in (("q", layer.to_q), ("k", layer.to_k))]  # fmt: skip
    with torch.no_grad(), attention(sd) as maps:
        sd.conditional(x, sigma, cond)
    for handle in handles:
        handle.remove()
    q, k = (seen[key].unflatten(-1, (layer.heads, -1)).transpose(1, 2) for key in "qk")
    want = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1).mean(1)
    assert torch.allclose(maps[sd.text_attention()[0]], want, atol=1e-6)
    assert list(maps) == sd.text_attention()  # in the order of the network


def test_joint_attention_leaves_the_image_its_share(flux):
    with torch.no_grad(), attention(flux) as maps:
        flux.conditional(flux.noise(2, 0), flux.sigmas(4)[1], flux.encode(PROMPTS[:2]))
    assert list(maps) == flux.text_attention()
    for weights in maps.values():
        assert weights.shape == (2, 64, 16) and (weights > 0).all() and (weights.sum(-1) < 1).all()


@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_joint_attention_knows_image_from_text(family):
    """In the first block, another text token changes its own column, and other image tokens their own rows: beside that,
    a row changes by a factor only (of every head, so nearly by one)."""
    tiny, maps = TINY[family](), []
    cond, x = tiny.encode(PROMPTS[:1]), tiny.noise(1, 0)
    other, moved = Cond(cond.embeds.clone(), cond.pooled), x.clone()
    other.embeds[:, 5] += 3
    grid = tiny.grid(moved)
    grid[:, :, :2, :2] += 1  # a view of the latents
    for state, said in ((x, cond), (x, other), (moved, cond)):
        with torch.no_grad(), attention(tiny) as found:
            tiny.conditional(state, tiny.sigmas(4)[1], said)
        maps.append(found[tiny.text_attention()[0]][0])
    ratio = maps[1] / maps[0]
    rest = [k for k in range(ratio.shape[1]) if k != 5]
    assert (ratio[:, 5] - ratio[:, rest].mean(1)).abs().max() > 10 * ratio[:, rest].std(1).max()
    spread = (maps[2] / maps[0]).std(1)
    changed = spread > 0.1 * spread.max()
    assert 1 <= changed.sum() <= 4 and changed[0] and not changed[-1]


def test_the_ending_is_that_of_the_finest_layers_on_the_way_down(sd):
    with torch.no_grad():
        states = rollout(sd.conditional, sd.noise(2, 0), sd.sigmas(3), sd.encode(PROMPTS[:2]), trace=True)
        with attention(sd) as maps:
            sd.conditional(states[-2], sd.sigmas(3)[2], sd.encode(PROMPTS[:2]))
    ends = sd.prompt_lengths(PROMPTS[:2]) - 1
    first = maps[next(n for n in maps if n.startswith("down_blocks.0"))]
    want = torch.stack([first[i, :, end] for i, end in enumerate(ends)]).view(2, 16, 16)
    assert torch.allclose(detect.ending_map(sd, PROMPTS[:2], sampling_steps=3), want, atol=1e-6)


def test_entropy_is_that_of_the_asked_layer_and_steps(sd):
    with torch.no_grad(), attention(sd) as maps:
        sd.conditional(sd.noise(2, 0), sd.sigmas(8)[0], sd.encode(PROMPTS[:2]))
    p = maps[sd.text_attention()[2]].mean(1)
    assert torch.allclose(detect.ren_e(sd, PROMPTS[:2], layer=2), -(p * p.log()).sum(1), atol=1e-5)
    some = detect.attention_weights(sd, PROMPTS[:2], steps=(0, 3), sampling_steps=4)
    every = detect.attention_weights(sd, PROMPTS[:2], steps=range(4), sampling_steps=4)
    assert torch.equal(some, every[[0, 3]]) and not torch.allclose(every[0], every[3], atol=1e-6)


@pytest.mark.parametrize("family", ["flux", "sd"])
def test_detectors_work_in_half_precision(family):
    tiny = TINY[family](dtype=torch.bfloat16)
    for name, detector in detect.DETECTORS.items():
        found = detector(tiny, PROMPTS[:2])
        assert found.dtype == torch.float32 and found.isfinite().all(), name


def test_a_prompt_that_is_cut_is_named(tiny, recwarn, capfd):
    tiny.encode(PROMPTS[:2])
    assert not recwarn
    with pytest.warns(UserWarning, match=r"1 of 6 prompts have more than 16 tokens and are cut there.*prompts\[2\]"):
        tiny.encode(PROMPTS)
    assert "pad" not in capfd.readouterr().err


def test_attention_says_when_it_saw_none(sd):
    with pytest.raises(RuntimeError, match="no attention was seen"), attention(sd):
        pass
    hooks = [m for m in sd.denoiser.modules() if m._forward_pre_hooks or m._forward_hooks]
    assert not hooks


def test_rates_at_most_not_nearest():
    negative = np.arange(50.0)  # 1 % of 50 is half a prompt: none may pass
    positive = np.array([48.5, 49.0, 50.0, 60.0])
    assert evaluate.tpr_at(positive, negative) == (0.5, 50.0)  # 49 would catch one more, and ties count as alarms
    assert evaluate.tpr_at(positive, negative, fpr=0.02) == (1.0, 48.5)
    false, true, limits = evaluate.roc(positive, negative)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1) and (np.diff(limits) < 0).all()
    assert float(torch.trapezoid(torch.tensor(true), torch.tensor(false))) == pytest.approx(
        evaluate.auroc(positive, negative)
    )
    estimate = evaluate.bootstrap_tpr(positive, negative)
    assert estimate.mean == 0.5 and 0 <= estimate.low < 0.5 < estimate.high <= 1
    band = evaluate.roc_band(positive, negative, points=11)
    assert (band["low"] <= band["tpr"]).all() and (band["tpr"] <= band["high"]).all() and band["tpr"][-1] == 1
    with pytest.raises(ValueError, match="both classes"):
        evaluate.roc([], negative)
    with pytest.raises(ValueError, match="not a number"):
        evaluate.tpr_at([math.nan], negative)


def test_risk_table_of_anyones_prompts(tiny, tmp_path):
    limits = {"wen": float(detect.wen(tiny, PROMPTS).median())}
    detectors = {name: detect.DETECTORS[name] for name in ("wen", "webster")}
    with count(tiny) as forwards:
        frame = detect.risk_table(tiny, PROMPTS, detectors, limits=limits, save=tmp_path / "risk.csv")
    assert forwards[0] == 3 * 5  # the prompt that occurs twice is computed once
    assert frame.prompt.tolist() == PROMPTS and list(frame) == ["prompt", "tokens", "wen", "wen flagged", "webster"]
    assert frame.wen[0] == frame.wen[4] and frame.tokens[2] == 16
    assert frame["wen flagged"].tolist() == [r >= limits["wen"] for r in frame.wen]
    assert frame["wen flagged"].nunique() == 2
    again = pd.read_csv(tmp_path / "risk.csv", keep_default_na=False)
    assert again.prompt.tolist() == PROMPTS and np.allclose(again.wen, frame.wen)
    for options, message in (({"limits": {"jeon": 1}}, "jeon"), ({"save": "risk.xlsx"}, "csv or .parquet")):
        with pytest.raises(ValueError, match=message), count(tiny) as forwards:
            detect.risk_table(tiny, PROMPTS, detectors, **options)
        assert forwards[0] == 0
