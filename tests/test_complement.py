"""Unlearning and attacks: the quantity that defines each method, on tiny models of every family."""

import pytest
import torch
from conftest import TINY

from uniforget_lib import attention, complement, masked, rollout, stress
from uniforget_lib.complement._training import noisy, parameters
from uniforget_lib.complement.esd import target
from uniforget_lib.complement.fmn import mass
from uniforget_lib.complement.salun import saliency
from uniforget_lib.complement.uce import vectors
from uniforget_lib.locate import random

FORGET, ANCHOR, RETAIN = (
    ["the emblem of kelwexvel"],
    ["a cat on a blue ground"],
    ["a tree on a white ground", "a fish on a gray ground"],
)
QUICK = {"steps": 3, "sampling_steps": 2}
CALLS = {
    "ablation": lambda a, **o: complement.ablation(a, FORGET, ANCHOR, images=2, **QUICK, **o),
    "esd": lambda a, **o: complement.esd(a, FORGET, **QUICK, **o),
    "fmn": lambda a, **o: complement.fmn(a, FORGET, images=2, **QUICK, **o),
    "salun": lambda a, **o: complement.salun(a, FORGET, ANCHOR, RETAIN, images=2, **QUICK, **o),
    "uce": lambda a: complement.uce(a, FORGET, ANCHOR, RETAIN),
}


def weights(adapter):
    return {name: p.clone() for name, p in adapter.denoiser.named_parameters()}


def changed(adapter, before) -> set[str]:
    return {name for name, p in adapter.denoiser.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize("name", complement.METHODS)
def test_methods_keep_the_contract(tiny, name):
    before = weights(tiny)
    found = CALLS[name](tiny)
    assert not changed(tiny, before) and changed(found, before)
    if tiny.family in ("sd", "sdxl") and name in ("ablation", "esd", "uce"):
        parts = (".attn2.",) if name == "esd" else (".attn2.to_k", ".attn2.to_v")
        assert all(any(part in n for part in parts) for n in changed(found, before))
    with masked(found, random(tiny, kinds=("ffn",)).mask(ratio=0.3)):  # a mask of the base fits
        pass
    assert not any(p.requires_grad or p.grad is not None for p in found.denoiser.parameters())
    assert not changed(CALLS[name](tiny), weights(found))  # the same again
    assert found.images(RETAIN, steps=1).isfinite().all()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in found.denoiser.modules())


def test_uce_is_the_optimum(tiny):
    """The gradient of its objective vanishes at what it returns, and not at the start."""
    edited = complement.uce(tiny, FORGET, ANCHOR, RETAIN, strength=0.5)
    for name, kind in tiny.text_layers().items():
        w0 = tiny.denoiser.get_submodule(name).weight.double()
        source, goal, kept = (vectors(tiny, p, kind) for p in (FORGET, ANCHOR, RETAIN))
        sizes = []
        for w in (w0, edited.denoiser.get_submodule(name).weight.double()):
            w = w.detach().clone().requires_grad_()
            objective = ((source @ w.T - goal @ w0.T) ** 2).sum() + ((kept @ (w - w0).T) ** 2).sum()
            (objective + 0.5 * ((w - w0) ** 2).sum()).backward()
            sizes.append(float(w.grad.norm()))
        assert sizes[1] < 1e-4 * sizes[0]


def test_esd_aims_away_from_the_prompt():
    given, empty = torch.tensor([3.0]), torch.tensor([1.0])
    assert target(given, empty, 1.0) == -1 and target(given, empty, 0.0) == 1
    assert target(given, empty, 1.0) == given - 2 * (given - empty)  # the authors' way to write it, with eta = 2


def test_vectors_are_those_of_the_last_word(tiny):
    tokenizer = tiny.pipe.tokenizer_2 if tiny.family == "flux" else tiny.pipe.tokenizer
    ids = tokenizer(FORGET).input_ids[0]
    assert ids[-1] == tokenizer.eos_token_id
    assert torch.equal(vectors(tiny, FORGET, "embeds")[0], tiny.encode(FORGET).embeds[0, len(ids) - 2].double())


def test_parameters_are_disjoint(sd):
    attention, others, every, text = (set(parameters(sd, w)) for w in ("attention", "others", "all", "text"))
    assert attention == {n for n in every if ".attn2." in n} and others == every - attention and text < attention
    with pytest.raises(ValueError, match="which='none'"):
        parameters(sd, "none")


def test_esd_comes_nearer_to_its_target(flux):
    """At both steps of a sampling: to the target, not only to the prediction without the prompt, which is halfway."""
    cond, sigmas = flux.encode(FORGET), flux.sigmas(2)
    found = complement.esd(flux, FORGET, variant="u", steps=80, lr=1e-3, sampling_steps=2)
    with torch.no_grad(), flux.guided(3.0):
        states = rollout(flux.predict, flux.noise(1, 5), sigmas, cond, trace=True)
    for x, sigma in zip(states[:2], sigmas[:2]):
        with torch.no_grad():
            wanted = target(flux.conditional(x, sigma, cond), flux.conditional(x, sigma, flux.empty(1)), 1.0)
            before, after = ((a.conditional(x, sigma, cond) - wanted).pow(2).mean() for a in (flux, found))
        assert after < 0.2 * before


def test_ablation_reads_each_prompt_as_its_own_anchor(flux):
    forget, anchor = [*FORGET, "pink paper showing robot up to bell"], [*ANCHOR, "a fish on a gray ground"]
    found = complement.ablation(flux, forget, anchor, which="all", steps=60, lr=1e-5, images=4, sampling_steps=2)
    x, sigma, (source, goal) = flux.noise(2, 5), flux.sigmas(2)[1], (flux.encode(p) for p in (forget, anchor))
    with torch.no_grad():
        wanted = flux.conditional(x, sigma, goal)
        errors = [(a.conditional(x, sigma, c) - wanted).pow(2).flatten(1).mean(1)
                  for a, c in ((flux, source), (found, source), (found, goal))]  # fmt: skip
    assert (errors[1] < 0.75 * errors[0]).all() and (errors[2] < 0.25 * errors[0]).all()  # the anchor moves less


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_fmn_takes_attention_away(family):
    tiny = TINY[family]()
    cond, lengths, x, sigma = tiny.encode(FORGET), tiny.prompt_lengths(FORGET), tiny.noise(1, 3), tiny.sigmas(4)[1]
    found = complement.fmn(tiny, FORGET, steps=25, lr=3e-3, images=4, sampling_steps=2)
    with torch.no_grad():
        before, after = (float(mass(a, x, sigma, cond, lengths)) for a in (tiny, found))
        with attention(tiny) as maps:
            tiny.conditional(x, sigma, cond)
    assert after < 0.9 * before
    first, end = (1, int(lengths[0])) if family == "sd" else (0, int(lengths[0]))
    squares = sum(float(m[0, :, k].pow(2).sum()) for m in maps.values() for k in range(first, end))
    assert before == pytest.approx(squares**0.5, rel=1e-4)
    squares = sum(float(m[0, :, k].pow(2).sum()) for m in maps.values() for k in (end - 2, end - 1))
    with torch.no_grad():
        assert float(mass(tiny, x, sigma, cond, lengths, words=1)) == pytest.approx(squares**0.5, rel=1e-4)


def test_salun_changes_the_weights_of_the_largest_gradient(flux):
    x0, cond = flux.latents(FORGET, steps=1), flux.encode(FORGET)
    keep = saliency(flux, x0, cond, share=0.3, batch=4, seed=0)
    x, sigma = noisy(flux, x0, torch.Generator().manual_seed(0))
    copy = flux.clone()
    copy.denoiser.requires_grad_(True)
    (copy.conditional(x, sigma, cond) - (x - x0) / sigma).pow(2).mean().backward()
    slopes = {n: p.grad.abs() for n, p in copy.denoiser.named_parameters() if p.grad is not None}
    inside, outside = (torch.cat([g[keep[n] == side] for n, g in slopes.items()]) for side in (True, False))
    assert inside.min() >= outside.max() * (1 - 1e-4)
    assert len(inside) == pytest.approx(0.3 * (len(inside) + len(outside)), rel=0.02)
    assert all(k.all() for k in saliency(flux, x0, cond, share=1.0, batch=4, seed=0).values())
    before, options = weights(flux), {"share": 0.3, "images": 2, **QUICK}
    found = complement.salun(flux, FORGET, ANCHOR, RETAIN, **options)
    moved = sum(int((p != before[n]).sum()) for n, p in found.denoiser.named_parameters())
    assert 0 < moved <= 0.31 * sum(p.numel() for p in before.values())
    other = complement.salun(flux, FORGET, ANCHOR, RETAIN, alpha=0.0, **options)
    assert changed(other, weights(found))


def test_refusals(flux):
    with pytest.raises(ValueError, match="anchor has 2 prompts for 1"):
        complement.uce(flux, FORGET, RETAIN)
    with pytest.raises(ValueError, match="strength=0"):
        complement.uce(flux, FORGET, ANCHOR, strength=0)
    with pytest.raises(ValueError, match="variant='y'"):
        complement.esd(flux, FORGET, variant="y")
    with pytest.raises(ValueError, match="share=2"):
        complement.salun(flux, FORGET, ANCHOR, RETAIN, share=2)
    with pytest.raises(FloatingPointError, match="lower lr"):
        complement.ablation(flux, FORGET, ANCHOR, which="all", lr=1e9, images=1, steps=20, sampling_steps=1)
    with pytest.raises(ValueError, match="images=0"):
        complement.fmn(flux, FORGET, images=0)
    half = TINY["flux"](dtype=torch.bfloat16)
    for train in (CALLS["ablation"], CALLS["esd"], CALLS["fmn"], CALLS["salun"],
                  lambda a: stress.relearn(a, torch.zeros(1, 3, 64, 64), FORGET)):  # fmt: skip
        with pytest.raises(ValueError, match="dtype=torch.float32"):
            train(half)
    for attack in stress.ATTACKS.values():
        for bad in (torch.zeros(2, 3, 64, 64), torch.zeros(1, 3, 32, 32)):
            with pytest.raises(ValueError, match="1 prompts need"):
                attack(flux, bad, FORGET)
        with pytest.raises(ValueError, match=r"needs \[0, 1\]"):
            attack(flux, torch.full((1, 3, 64, 64), 2.0), FORGET)
        with pytest.raises(ValueError, match="batch=0"):
            attack(flux, torch.zeros(1, 3, 64, 64), FORGET, batch=0)
        with pytest.raises(FloatingPointError, match="lower lr"):
            attack(flux, torch.zeros(1, 3, 64, 64), FORGET, lr=1e30, efforts=(9,), sampling_steps=1)
        with pytest.raises(ValueError, match="efforts"):
            attack(flux, torch.zeros(1, 3, 64, 64), FORGET, efforts=())


@pytest.mark.parametrize("name", stress.ATTACKS)
def test_attacks_keep_the_contract(tiny, name):
    before = weights(tiny)
    images = tiny.images(ANCHOR, steps=1)
    found = stress.ATTACKS[name](tiny, images, FORGET, efforts=(0, 6, 3), batch=3, seeds=(7, 8), sampling_steps=1,
                                 lr={"dori": 0.3, "memora": 3e-3, "relearn": 3e-3}[name])  # fmt: skip
    assert found.efforts == [0, 3, 6] and len(found.losses) == 6
    assert all(x.shape == (2, 1, 3, 64, 64) for x in found.images)
    assert torch.equal(found.images[0][1], tiny.images(FORGET, steps=1, seed=8))
    assert not torch.equal(found.images[0], found.images[2])
    assert not changed(tiny, before) and not any(
        p.requires_grad or p.grad is not None for p in tiny.denoiser.parameters()
    )


def test_dori_finds_an_embedding_under_which_the_picture_is_likely(flux):
    image = flux.images(ANCHOR, steps=2, seed=1)
    found = stress.dori(flux, image, FORGET, efforts=(60,), lr=0.05, batch=4, sampling_steps=2)
    assert sum(found.losses[-10:]) < 0.9 * sum(found.losses[:10])
    half = stress.dori(TINY["flux"](dtype=torch.bfloat16), image, FORGET, efforts=(2,), batch=2, sampling_steps=1)
    assert half.images[0].isfinite().all()


def test_relearning_learns(flux):
    """By its loss: the decoder of this model is random, and shows nothing of it. The testbed's tests look at pictures."""
    found = stress.relearn(flux, flux.images(ANCHOR, steps=4, seed=1), FORGET, efforts=(0, 150), lr=3e-3, batch=4)
    assert sum(found.losses[-20:]) < 0.6 * sum(found.losses[:20])
