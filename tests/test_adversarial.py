"""Adversarial fine-tuning, unlearning of pruned models, and the statistics that compare them."""

from itertools import islice

import numpy as np
import pytest
import torch
from conftest import TINY
from test_complement import ANCHOR, CALLS, FORGET, RETAIN, changed, weights

from uniforget_lib import complement, shrink
from uniforget_lib.complement._search import picture_loss, search
from uniforget_lib.evaluate import Estimate, bootstrap, difference, evaluations, paired
from uniforget_lib.locate import random

QUICK = {"rounds": 1, "searched": 2, "steps": 2, "batch": 2}


def pictures(adapter, seed=1):
    """To forget, to draw instead, to keep."""
    return [adapter.images(p, steps=2, seed=seed) for p in (FORGET, ANCHOR, RETAIN)]


def test_adversarial_keeps_the_contract(tiny):
    before, (image, instead, keep) = weights(tiny), pictures(tiny)
    call = lambda: complement.adversarial(tiny, image, FORGET, instead, keep, RETAIN, **QUICK)  # noqa: E731
    found = call()
    assert not changed(tiny, before) and changed(found, before)
    assert not any(p.requires_grad or p.grad is not None for p in found.denoiser.parameters())
    assert not changed(call(), weights(found))  # the same again


def test_adversarial_redirects_the_embedding_that_was_found(flux):
    """What defines it: under an embedding that calls the picture, and is not its prompt, another picture becomes likelier;
    the same training without the search does less."""
    image, instead, keep = pictures(flux)
    with torch.no_grad():
        x0, other, start = flux.latents_of(image), flux.latents_of(instead), flux.encode(FORGET)
    found, _ = next(islice(search(flux, x0, start, lr=0.3, batch=1, seed=0, desc="test"), 29, None))

    def loss(model):
        with torch.no_grad():
            return sum(
                float(picture_loss(model, other, found, torch.Generator().manual_seed(k)).mean()) for k in range(8)
            )

    options = {"rounds": 1, "search_lr": 0.3, "steps": 80, "lr": 1e-3, "seed": 0}
    made = [complement.adversarial(flux, image, FORGET, instead, keep, RETAIN, searched=n, **options) for n in (30, 0)]
    searched, prompted = map(loss, made)
    assert searched < 0.85 * prompted and searched < 0.7 * loss(flux), (searched, prompted, loss(flux))


def test_a_search_gives_embeddings_that_stay(flux):
    with torch.no_grad():
        x0, start = flux.latents_of(pictures(flux)[0]), flux.encode(FORGET)
    found = [cond for cond, _ in islice(search(flux, x0, start, lr=0.1, batch=1, seed=0, desc="test"), 3)]
    assert not torch.equal(found[0].embeds, found[1].embeds) and not torch.equal(found[1].pooled, found[2].pooled)
    assert torch.equal(flux.encode(FORGET).embeds, start.embeds)


def test_adversarial_refuses(flux):
    image, instead, keep = pictures(flux)
    for bad in ((image, FORGET, instead[:, :, :32], keep, RETAIN), (image, FORGET, instead, keep, FORGET)):
        with pytest.raises(ValueError, match="prompts need"):
            complement.adversarial(flux, *bad)
    with pytest.raises(ValueError, match="searched=-1"):
        complement.adversarial(flux, image, FORGET, instead, keep, RETAIN, searched=-1)
    with pytest.raises(ValueError, match="rounds=0"):
        complement.adversarial(flux, image, FORGET, instead, keep, RETAIN, rounds=0)
    with pytest.raises(ValueError, match="dtype=torch.float32"):
        complement.adversarial(TINY["flux"](dtype=torch.bfloat16), image, FORGET, instead, keep, RETAIN)
    with pytest.raises(FloatingPointError, match="lower lr"):
        complement.adversarial(flux, image, FORGET, instead, keep, RETAIN, search_lr=1e30)


@pytest.mark.parametrize("family", ["flux", "sd"])
@pytest.mark.parametrize("name", complement.METHODS)
def test_methods_work_on_a_pruned_model_and_bring_nothing_back(family, name):
    """Both orders of the design: what was shrunk away has no weights that a method could move."""
    adapter = TINY[family]()
    small = shrink(adapter, random(adapter, kinds=("ffn",)).mask(ratio=0.5), multiple=1)
    found = CALLS[name](small)
    shapes = {n: p.shape for n, p in small.denoiser.named_parameters()}
    assert changed(found, weights(small)) and {n: p.shape for n, p in found.denoiser.named_parameters()} == shapes
    mask = random(found, kinds=("ffn",), seed=1).mask(ratio=0.5)  # and what was unlearned can be pruned
    assert sum(p.numel() for p in shrink(found, mask, multiple=1).denoiser.parameters()) < sum(
        s.numel() for s in shapes.values()
    )


def test_evaluations_count_rows(tiny):
    assert evaluations(tiny, lambda: tiny.images(RETAIN, steps=3)) == 3 * len(RETAIN)
    with tiny.guided(2.0):
        assert evaluations(tiny, lambda: tiny.images(RETAIN, steps=3)) == 6 * len(RETAIN)
    with pytest.raises(RuntimeError, match="stop"):
        evaluations(tiny, lambda: (_ for _ in ()).throw(RuntimeError("stop")))
    assert not tiny.denoiser._forward_pre_hooks


def test_difference_by_hand():
    found = difference(Estimate(0.6, 0.4, 0.8), Estimate(0.1, 0.0, 0.3))
    assert found.mean == pytest.approx(0.5)
    assert found.low == pytest.approx(0.5 - np.hypot(0.2, 0.2)) and found.high == pytest.approx(
        0.5 + np.hypot(0.2, 0.1)
    )
    sure = difference(bootstrap(np.ones((2, 20))), bootstrap(np.zeros((2, 20))))
    assert sure.mean == 1 and 0.7 < sure.low < 0.8 and sure.high == 1


def test_paired_differences():
    a, b = np.array([[1, 1, 0, 0]] * 2), np.array([[1, 0, 0, 0]] * 2)
    assert paired(a, b) == bootstrap(a - b, share=False) and paired(a, b).mean == 0.25
    same = paired(a, a)
    assert same.mean == 0 and -same.low == same.high == pytest.approx(1 - 0.025**0.25)
    assert (
        paired(np.ones(20), np.zeros(20)).low == pytest.approx(1 - (1 - 0.025**0.05))
        and paired(np.ones(20), np.zeros(20)).high == 1
    )
    apart = paired(1 - b, b)  # they disagree everywhere, in both directions
    assert apart.low < apart.mean == 0.5 < apart.high
