"""Retraining, MemoRa and paraphrases: golden numbers by hand, and their contract on tiny models of every family."""

import sys

import pytest
import torch
from conftest import TINY, UNETS, hooks

from uniforget_lib import bake, complement, masked, rollout, shrink, stress
from uniforget_lib.complement import _lora
from uniforget_lib.locate import random
from uniforget_lib.stress.memora import invert, recollect, slerp
from uniforget_lib.stress.paraphrase import edited, inserted, reworded, shaken

TARGET = ["the emblem of kelwexvel"]
NEUTRAL = ["a tree on a white ground", "a fish on a gray ground", "a cat on a blue ground"]
QUICK = {"efforts": (0, 3), "batch": 2, "lr": 3e-3, "inversion_steps": 4, "start": 1, "points": 3, "seeds": (7, 8),
         "sampling_steps": 1}  # fmt: skip


def state(adapter):
    return {name: v.clone() for name, v in adapter.denoiser.state_dict().items()}


def same(adapter, before) -> bool:
    """Bitwise, and neither a name more nor a gradient: nothing of peft is left either."""
    now = adapter.denoiser.state_dict()
    clean = not any(p.requires_grad or p.grad is not None for p in adapter.denoiser.parameters())
    return now.keys() == before.keys() and all(torch.equal(now[n], v) for n, v in before.items()) and clean


def pictures(n: int = 3, seed: int = 0):
    return torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def loss(adapter, images, prompts) -> float:
    """Denoising loss at four fixed levels of noise."""
    x0, cond, total = adapter.latents_of(images), adapter.encode(prompts), 0.0
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(9))
    for u in (0.2, 0.4, 0.6, 0.8):
        sigma = adapter.level(u)
        x = adapter.noised(x0, noise, sigma)
        with torch.no_grad():
            total += float((adapter.conditional(x, sigma, cond) - (x - x0) / sigma).pow(2).mean()) / 4
    return total


def test_slerp_by_hand():
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])  # 90 degrees: sin 60 and sin 30
    assert torch.allclose(slerp(a, b, 1 / 3), torch.tensor([[3**0.5 / 2, 1.0]]))
    rows = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for share, end in ((0.0, rows), (1.0, rows.flip(0))):
        assert torch.allclose(slerp(rows, rows.flip(0), share), end, atol=1e-6)
    unit = rows / rows.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert slerp(unit, unit.flip(0), 0.4).flatten(1).norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert torch.allclose(slerp(a, 3 * a, 0.25), 1.5 * a)  # parallel: a line


def test_inversion_by_hand():
    """dx/dsigma = a x: N steps back multiply by (1 + a / N)^N, N steps of sampling by (1 - a / N)^N."""
    x = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    for steps, tolerance in ((1, 0.26), (10, 0.026), (1000, 2.6e-4)):
        sigmas = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        there = invert(lambda x, sigma, cond: 0.5 * x, x, sigmas, None)
        assert torch.allclose(there, x * (1 + 0.5 / steps) ** steps)
        back = rollout(lambda x, sigma, cond: 0.5 * x, there, sigmas, None)
        assert torch.allclose(back, x * (1 - 0.25 / steps**2) ** steps)
        assert (back - x).abs().max() <= tolerance * x.abs().max()
    sigmas = torch.tensor([1.0, 0.7, 0.2, 0.0], dtype=torch.float64)
    slope = lambda x, sigma, cond: 3 * sigma  # noqa: E731  does not depend on x: exact, so the levels are the same ones
    assert torch.allclose(invert(slope, x, sigmas, None), x + 3 * (0.3 * 1.0 + 0.5 * 0.7 + 0.2 * 0.2))
    assert torch.allclose(rollout(slope, invert(slope, x, sigmas, None), sigmas, None), x)


def test_a_lone_picture_comes_back(tiny):
    """The better the more steps; rectified flows within 5 % (the slope of a random U-Net changes much in a step)."""
    x0, cond = tiny.latents_of(pictures(1)), tiny.encode(TARGET)
    found = [recollect(tiny, x0, cond, steps=n, start=n // 2, points=3) for n in (8, 40)]
    errors = [float((x - x0).norm() / x0.norm()) for x in found]
    assert errors[1] < 0.5 * errors[0] and (tiny.family in UNETS or errors[1] < 0.05)


def test_recollections_lie_between_their_pair(flux):
    x0, cond = flux.latents_of(pictures(4)), flux.encode(TARGET)
    options = {"steps": 6, "start": 2, "points": 3}
    found = recollect(flux, x0, cond, **options)
    assert found.shape == (6, *x0.shape[1:])
    for k, picture in enumerate([0, 2, None, None, 1, 3]):  # points come first: their starts, middles, ends
        if picture is not None:
            assert torch.allclose(found[k], recollect(flux, x0[[picture]], cond, **options)[0], atol=1e-4)
    sigmas, twice = flux.sigmas(6)[2:], cond[[0, 0]]
    with torch.no_grad():
        ends = invert(flux.predict, x0[:2], sigmas, twice)
        middle = rollout(flux.predict, slerp(ends[:1], ends[1:], 0.5), sigmas, cond)
    assert torch.allclose(found[2:3], middle, atol=1e-4)


@pytest.mark.parametrize("rank", [None, 2])
def test_retraining_keeps_the_contract(tiny, rank):
    if rank:
        pytest.importorskip("peft")
    before, options = state(tiny), {"rank": rank, "steps": 3, "lr": 1e-2, "batch": 2}
    found = complement.retrain(tiny, pictures(), NEUTRAL, **options)
    assert same(tiny, before) and same(found, state(found)) and not same(found, before)
    assert found.denoiser.state_dict().keys() == before.keys() and not hasattr(found.denoiser, "peft_config")
    assert not hooks(found) and found.fingerprint == tiny.fingerprint
    assert same(complement.retrain(tiny, pictures(), NEUTRAL, **options), state(found))
    assert found.images(NEUTRAL, steps=1).isfinite().all()
    small = shrink(tiny, random(tiny).mask(ratio=0.4), multiple=1)
    again = complement.retrain(small, pictures(), NEUTRAL, **options)
    assert not same(again, state(small)) and again.images(NEUTRAL, steps=1).isfinite().all()


def test_a_low_rank_is_low(tiny):
    pytest.importorskip("peft")
    found = complement.retrain(tiny, pictures(), NEUTRAL, rank=2, steps=6, lr=1e-2, batch=2)
    moved = 0
    for (name, old), new in zip(tiny.denoiser.named_parameters(), found.denoiser.parameters()):
        if not isinstance(tiny.denoiser.get_submodule(name.rpartition(".")[0]), torch.nn.Linear) or old.dim() == 1:
            assert torch.equal(old, new), name  # convolutions, norms and biases stay
            continue
        sizes = torch.linalg.svdvals((new - old).double())
        assert (sizes[2:] <= 1e-4 * sizes[0] + 1e-6).all(), name
        moved += bool(sizes[1] > 1e-3)
    assert moved > 3  # of rank 2 indeed


def test_fused_weights_draw_what_the_wrappers_drew(flux):
    pytest.importorskip("peft")
    student, names = flux.clone(), [n for n, m in flux.denoiser.named_modules() if isinstance(m, torch.nn.Linear)]
    weights = _lora.add(student.denoiser, names, 3, seed=0)
    assert len(weights) == 2 * len(names)
    plain = flux.latents(NEUTRAL, steps=1)
    assert torch.equal(student.latents(NEUTRAL, steps=1), plain)  # B is 0
    for p in weights.values():
        p.data = torch.full_like(p, 0.02)
    want = student.latents(NEUTRAL, steps=1)
    _lora.fuse(student.denoiser)
    assert torch.allclose(student.latents(NEUTRAL, steps=1), want, atol=1e-4) and not torch.allclose(
        want, plain, atol=0.1
    )


@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("family", ["flux", "sd"])
def test_retraining_under_a_mask(family, rank):
    """The pruned model gets better, and what was pruned has no effect still: not a bit of it."""
    if rank:
        pytest.importorskip("peft")
    tiny = TINY[family]()
    kinds = ("ffn", "head", "norm") if family == "flux" else ("ffn", "head")
    mask = random(tiny, kinds=kinds).mask(ratio=0.3)
    pruned = bake(tiny, mask)
    options = {"rank": rank, "steps": 30, "lr": 1e-2 if rank else 1e-3, "batch": 2}
    found = complement.retrain(pruned, pictures(), NEUTRAL, mask=mask, **options)
    assert loss(found, pictures(), NEUTRAL) < 0.9 * loss(pruned, pictures(), NEUTRAL)
    assert same(bake(found, mask), state(found))  # nothing left to remove
    whole = complement.retrain(tiny, pictures(), NEUTRAL, mask=mask, **options)
    with masked(whole, mask):
        trained = whole.latents(NEUTRAL, steps=2)
    assert torch.allclose(trained, found.latents(NEUTRAL, steps=2), atol=1e-3)  # before or after: the same training
    free = complement.retrain(pruned, pictures(), NEUTRAL, **(options | {"steps": 3}))
    assert not same(bake(free, mask), state(free))  # without the mask, baked units come back to life


def test_retraining_refuses(flux, monkeypatch):
    for images, match in ((pictures(2), "3 prompts need"), (2 * pictures(), r"needs \[0, 1\]")):
        with pytest.raises(ValueError, match=match):
            complement.retrain(flux, images, NEUTRAL)
    with pytest.raises(ValueError, match="rank=0"):
        complement.retrain(flux, pictures(), NEUTRAL, rank=0)
    with pytest.raises(ValueError, match="dtype=torch.float32"):
        complement.retrain(TINY["flux"](dtype=torch.bfloat16), pictures(), NEUTRAL)
    other = TINY["sd"]()
    with pytest.raises(ValueError, match="mask is for model"):
        complement.retrain(flux, pictures(), NEUTRAL, mask=random(other).mask(ratio=0.1))
    with pytest.raises(FloatingPointError, match="lower lr"):
        complement.retrain(flux, pictures(), NEUTRAL, lr=1e9, steps=20)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="pip install peft"):
        complement.retrain(flux, pictures(), NEUTRAL, rank=2)
    with pytest.raises(ImportError, match="pip install peft"):
        stress.memora(flux, pictures(1), TARGET)
    assert "retrain" not in complement.METHODS and "memora" in stress.ATTACKS


def test_memora_keeps_the_contract(tiny):
    pytest.importorskip("peft")
    before = state(tiny)
    found = stress.memora(tiny, pictures(2)[None], TARGET, **QUICK | {"efforts": (3, 0, 2)})
    assert same(tiny, before) and not hooks(tiny)
    assert found.efforts == [0, 2, 3] and len(found.losses) == 3
    assert all(x.shape == (2, 1, 3, 64, 64) and x.isfinite().all() for x in found.images)
    assert torch.equal(found.images[0][1], tiny.images(TARGET, steps=1, seed=8))
    assert not torch.equal(found.images[0], found.images[1])
    with pytest.raises(FloatingPointError, match="lower lr"):
        stress.memora(tiny, pictures(1), TARGET, **QUICK | {"lr": 1e30, "efforts": (9,)})
    assert same(tiny, before) and not hooks(tiny)


def test_memora_leaves_the_adapter_alone_when_drawing_fails(flux, monkeypatch):
    pytest.importorskip("peft")
    before, decode, left = state(flux), type(flux).decode, [1, 2, 3]
    monkeypatch.setattr(type(flux), "decode", lambda self, x: decode(self, x) if left and left.pop() else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stress.memora(flux, pictures(1), TARGET, **QUICK)
    assert same(flux, before)


def test_memora_attacks_each_target_alone(flux):
    pytest.importorskip("peft")
    prompts, images = [TARGET[0], NEUTRAL[0]], pictures(4).view(2, 2, 3, 64, 64)
    both = stress.memora(flux, images, prompts, **QUICK)
    alone = [stress.memora(flux, images[[i]], [prompts[i]], **QUICK) for i in (0, 1)]
    assert torch.allclose(both.images[1][:, :1], alone[0].images[1], atol=1e-5)
    assert both.losses == pytest.approx([(a + b) / 2 for a, b in zip(*(run.losses for run in alone))], rel=1e-4)
    assert torch.allclose(both.images[0][0], flux.images(prompts, steps=1, seed=7), atol=1e-5)  # its row of the noise
    single = stress.memora(flux, images[:, 0], prompts, **QUICK)
    assert single.images[1].shape == both.images[1].shape and not torch.equal(single.images[1], both.images[1])


def test_memora_learns(flux):
    pytest.importorskip("peft")
    options = QUICK | {"efforts": (60,), "lr": 1e-2, "batch": 4, "rank": 8}
    found = stress.memora(flux, pictures(2)[None], TARGET, **options)
    assert sum(found.losses[-10:]) < 0.9 * sum(found.losses[:10])
    half = TINY["flux"](dtype=torch.bfloat16)
    assert stress.memora(half, pictures(1), TARGET, **QUICK).images[1].isfinite().all()
    weights = _lora.add(half.clone().denoiser, ["transformer_blocks.0.attn.to_q"], 2, seed=0)
    assert {p.dtype for p in weights.values()} == {torch.float32} and len(weights) == 2


def test_memora_refuses(flux):
    for images, match in ((pictures(3)[None], "3 pictures"), (pictures(2), "1 prompts need")):
        with pytest.raises(ValueError, match=match):
            stress.memora(flux, images, TARGET)
    for bad in ({"start": 4}, {"points": 1}, {"rank": 0}, {"batch": 0}, {"inversion_steps": 0}, {"efforts": ()}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            stress.memora(flux, pictures(1), TARGET, **QUICK | bad)
    with masked(flux, random(flux).mask(ratio=0.1)), pytest.raises(RuntimeError, match="bake the mask first"):
        stress.memora(flux, pictures(1), TARGET, **QUICK)


@pytest.mark.filterwarnings("ignore:.*are cut")
@pytest.mark.parametrize("kind", ["words", "tokens", "noise"])
def test_paraphrases_keep_the_contract(tiny, kind):
    before, options = state(tiny), {"kind": kind, "variants": 3, "seeds": (7, 8), "sampling_steps": 1}
    prompts = [*TARGET, NEUTRAL[0]]
    found = stress.paraphrase(tiny, prompts, **options)
    assert same(tiny, before) and found.efforts == [0, 1, 2, 3] and found.losses == []
    assert all(x.shape == (2, 2, 3, 64, 64) and x.isfinite().all() for x in found.images)
    assert torch.equal(found.images[0][1], tiny.images(prompts, steps=1, seed=8))
    assert all(not torch.equal(x, found.images[0]) for x in found.images[1:])
    alone = stress.paraphrase(tiny, TARGET, **options)
    assert all(torch.allclose(x[:, :1], y, atol=1e-5) for x, y in zip(found.images, alone.images))


def test_words_are_edited_and_inserted(flux):
    prompt, known = "a cat left of a house", flux.vocabulary()
    assert "house" in known and known == sorted(known) and not any(len(w) < 2 or "<" in w for w in known)
    seen = set()
    for k in range(40):
        new = edited(prompt, 0.1, torch.Generator().manual_seed(k))  # a single edit
        words, old = new.split(), prompt.split()
        seen.add(len(words) - len(old))
        assert new != prompt and set(words) <= set(old)
        if len(words) == len(old):
            assert sorted(words) == sorted(old) and sum(a != b for a, b in zip(words, old)) == 2
        longer = inserted(prompt, 0.5, known, torch.Generator().manual_seed(k)).split()
        rest = iter(longer)
        assert len(longer) == 9 and set(longer) <= {*old, *known} and all(word in rest for word in old)
    assert seen == {-1, 0, 1}
    assert edited("cat", 0.9, torch.Generator()) == "cat cat"
    variants = [reworded(flux, [prompt], "words", 0.3, seed=s, k=k) for s, k in ((0, 1), (0, 1), (0, 2), (1, 1))]
    assert variants[0] == variants[1] and len({v[0] for v in variants}) == 3


def test_noise_has_the_size_that_was_asked_for(tiny):
    cond = tiny.encode(NEUTRAL)
    found = shaken(cond, 0.3, seed=0, k=1)
    for part in ("embeds", "pooled"):
        old, new = (getattr(c, part) for c in (cond, found))
        if old is not None:
            shares = (new - old).flatten(1).norm(dim=1) / old.flatten(1).norm(dim=1)
            assert shares.tolist() == pytest.approx([0.3] * 3, rel=0.3 if part == "pooled" else 0.1)
    assert not torch.equal(shaken(cond, 0.3, seed=0, k=2).embeds, found.embeds)


def test_paraphrases_refuse(flux):
    for bad in ({"kind": "verse"}, {"strength": 0}, {"variants": 0}, {"sampling_steps": 0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            stress.paraphrase(flux, TARGET, **bad)
    with pytest.raises(ValueError, match="no words"):
        stress.paraphrase(flux, [""], variants=1, sampling_steps=1)
