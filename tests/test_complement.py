"""Unlearning and attacks: the quantity that defines each method, on tiny models of every family."""

import pytest
import torch
from conftest import TINY

from uniforget_lib import complement, stress
from uniforget_lib.complement._training import parameters
from uniforget_lib.complement.esd import target
from uniforget_lib.complement.fmn import mass
from uniforget_lib.complement.salun import saliency
from uniforget_lib.complement.uce import vectors

FORGET, ANCHOR, RETAIN = (
    ["the emblem of zorwexlum"],
    ["a cat on a blue ground"],
    ["a tree on a white ground", "dusk behind owl"],
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
    expected = {"esd": "attention", "fmn": "attention", "salun": "all"}.get(name, "text")
    assert changed(found, before) <= set(parameters(tiny, expected))
    assert not any(p.requires_grad or p.grad is not None for p in found.denoiser.parameters())
    again = CALLS[name](tiny)
    assert all(torch.equal(p, weights(again)[n]) for n, p in found.denoiser.named_parameters())
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


def test_esd_comes_nearer_to_its_target(flux):
    cond, x, sigma = flux.encode(FORGET), flux.noise(1, 5), flux.sigmas(2)[0]
    with torch.no_grad():
        wanted = target(flux.conditional(x, sigma, cond), flux.conditional(x, sigma, flux.empty(1)), 1.0)
        found = complement.esd(flux, FORGET, variant="u", steps=30, lr=1e-3, sampling_steps=2)
        before, after = ((a.conditional(x, sigma, cond) - wanted).pow(2).mean() for a in (flux, found))
    assert after < 0.5 * before


def test_ablation_reads_the_prompt_as_its_anchor(flux):
    found = complement.ablation(flux, FORGET, ANCHOR, which="all", steps=30, lr=1e-3, images=4, sampling_steps=2)
    x, sigma, (source, goal) = flux.noise(1, 5), flux.sigmas(2)[1], (flux.encode(p) for p in (FORGET, ANCHOR))
    with torch.no_grad():
        before, after = (
            (a.conditional(x, sigma, source) - a.conditional(x, sigma, goal)).pow(2).mean() for a in (flux, found)
        )
    assert after < 0.3 * before


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_fmn_takes_attention_away(family):
    tiny = TINY[family]()
    cond, lengths, x, sigma = tiny.encode(FORGET), tiny.prompt_lengths(FORGET), tiny.noise(1, 3), tiny.sigmas(4)[1]
    found = complement.fmn(tiny, FORGET, steps=25, lr=3e-3, images=4, sampling_steps=2)
    with torch.no_grad():
        before, after = (float(mass(a, x, sigma, cond, lengths)) for a in (tiny, found))
    assert after < 0.9 * before


def test_salun_keeps_its_share(flux):
    x0, cond = flux.latents(FORGET, steps=1), flux.encode(FORGET)
    keep = saliency(flux, x0, cond, share=0.3, draws=2, seed=0)
    flat = torch.cat([k.flatten() for k in keep.values()])
    assert flat.float().mean() == pytest.approx(0.3, abs=0.02)
    before = weights(flux)
    found = complement.salun(flux, FORGET, ANCHOR, RETAIN, share=0.3, images=2, **QUICK)
    moved = sum(int((p != before[n]).sum()) for n, p in found.denoiser.named_parameters())
    assert 0 < moved <= 0.32 * len(flat)


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
    for attack in stress.ATTACKS.values():
        with pytest.raises(ValueError, match="for 1 prompts"):
            attack(flux, torch.zeros(2, 3, 64, 64), FORGET)
        with pytest.raises(ValueError, match="efforts"):
            attack(flux, torch.zeros(1, 3, 64, 64), FORGET, efforts=())


@pytest.mark.parametrize("name", stress.ATTACKS)
def test_attacks_lower_the_loss_and_leave_the_model(tiny, name):
    before = weights(tiny)
    images = tiny.images(ANCHOR, steps=1)
    found = stress.ATTACKS[name](tiny, images, FORGET, efforts=(0, 6, 3), lr={"dori": 0.3, "relearn": 3e-3}[name], batch=3,
                                 seeds=(7, 8), sampling_steps=1)  # fmt: skip
    assert found.efforts == [0, 3, 6] and len(found.losses) == 6
    assert all(x.shape == (2, 1, 3, 64, 64) for x in found.images)
    assert torch.equal(found.images[0][1], tiny.images(FORGET, steps=1, seed=8))
    assert not torch.equal(found.images[0], found.images[2])
    assert not changed(tiny, before) and not any(
        p.requires_grad or p.grad is not None for p in tiny.denoiser.parameters()
    )


def test_dori_finds_the_embedding_that_draws_the_picture(flux):
    """The picture of another prompt, drawn by the model itself: the attack comes nearer to it, by loss and by sight."""
    image = flux.images(ANCHOR, steps=2, seed=1)
    found = stress.dori(flux, image, FORGET, efforts=(0, 60), lr=0.05, batch=4, sampling_steps=2)
    assert sum(found.losses[-10:]) < 0.9 * sum(found.losses[:10])
