"""Locators that are told memorized prompts: golden numbers, and what each of them owes its user."""

import math

import pytest
import torch

from uniforget_lib import count, locate, masked, record, rollout
from uniforget_lib.locate.gradient import attributions, pull
from uniforget_lib.locate.nemo import _search

MEMORIZED = ["a cat on a blue ground", "a rocket left of a house on a pink ground"]
BASE = ["a tree on a white ground", "a fish on a gray ground", "a car above a cat on a green ground"]
OPTIONS = {"nemo": {"seeds": (0, 1)}, "integrated": {"points": 2}}


@pytest.mark.parametrize("name", locate.CONTRASTS)
def test_contrasts_keep_the_contract(tiny, name):
    before = {n: p.clone() for n, p in tiny.denoiser.named_parameters()}
    with count(tiny) as forwards:
        score = locate.CONTRASTS[name](tiny, MEMORIZED, BASE, **OPTIONS.get(name, {}))
    kind = {"nemo": ("value",), "gradient": ("ffn", "norm"), "integrated": ("ffn", "norm")}.get(name, ("ffn",))
    assert {n: len(v) for n, v in score.values.items()} == {s.name: s.units for s in tiny.sites(kind)}
    assert all(v.isfinite().all() for v in score.values.values())
    backward = 2 if name in ("gradient", "integrated") else 1  # a backward pass counts as two forwards
    assert score.cost == backward * forwards[0] and score.fingerprint == tiny.fingerprint
    mask = score.mask(ratio=0.25)
    assert mask.sparsity() == pytest.approx(0.25, abs=0.01)
    with masked(tiny, mask):
        changed = tiny.latents(MEMORIZED, steps=1)
    assert not torch.equal(changed, tiny.latents(MEMORIZED, steps=1))
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in tiny.denoiser.named_parameters())
    for bad in (([], BASE), (MEMORIZED, []), ("a cat", BASE)):
        with pytest.raises((ValueError, TypeError), match="prompts or base"):
            locate.CONTRASTS[name](tiny, *bad)


def test_activation_contrast_is_that_of_recorded_activations(tiny):
    site, found = tiny.sites(("ffn",))[0], []
    for prompts in (MEMORIZED, BASE):
        with record(tiny, [site]) as power:
            tiny.latents(prompts, steps=3)
        found.append(power[site.name].sqrt())
    score = locate.activation(tiny, MEMORIZED, BASE, sampling_steps=3)
    want = (found[0] - found[1]) / (found[0] + found[1])
    assert torch.allclose(score.values[site.name], want, atol=1e-5)


def test_chavhan_chooses_weights_by_the_paper_s_rule(sd):
    site = sd.sites(("ffn",))[1]
    linear, seen = sd.denoiser.get_submodule(site.readers[0].linear), []
    handle = linear.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with torch.no_grad():
        for prompts in (MEMORIZED, [""]):
            sd.conditional(sd.noise(len(prompts), 0), sd.sigmas(10)[0], sd.encode(prompts))
    handle.remove()
    norms = []
    for x in seen:
        tokens = x.reshape(-1, site.units)
        tokens = tokens / tokens.norm(dim=1, keepdim=True)
        norms.append(tokens.pow(2).sum(0).div(len(x)).sqrt())  # by prompt: the two lists differ in length
    top, want = round(0.05 * site.units), torch.zeros_like(linear.weight, dtype=torch.bool)
    for i, row in enumerate(linear.weight.detach().abs()):
        for j in sorted(range(site.units), key=lambda j: -float(row[j] * norms[0][j]))[:top]:
            want[i, j] = norms[0][j] > norms[1][j]
    chosen, _ = locate.chavhan_weights(sd, MEMORIZED, share=0.05, steps=1)
    assert torch.equal(chosen[site.name], want) and 0 < want.sum() < want.numel()
    score = locate.chavhan(sd, MEMORIZED, share=0.05, steps=1)
    assert torch.allclose(score.values[site.name], want.float().mean(0))


def test_attributions_add_up_to_the_pull(tiny):
    """Integrated gradients are complete: their sum is the difference between all gates open and all closed."""
    kinds, options = ("ffn",), {"steps": 2, "seed": 0, "batch": 2}
    closed = {s.name: torch.zeros(s.units) for s in tiny.sites(kinds)}
    open_, shares = attributions(tiny, MEMORIZED, kinds, [(k + 0.5) / 24 for k in range(24)], **options)
    none, _ = pull(tiny, MEMORIZED, closed, **options)
    assert sum(float(v.sum()) for v in shares.values()) == pytest.approx(open_ - none, rel=2e-2)


def test_pull_and_its_gradient_by_differences(tiny):
    site = tiny.sites(("ffn",))[0]
    options = {"steps": 2, "seed": 0, "batch": 1}
    gates = {site.name: torch.ones(site.units)}
    value, slope = pull(tiny, MEMORIZED, gates, **options)
    x, sigmas = tiny.noise(2, 0), tiny.sigmas(2)
    with torch.no_grad():
        images = [rollout(tiny.conditional, x, sigmas, cond) for cond in (tiny.encode(MEMORIZED), tiny.empty(2))]
    assert value == pytest.approx(float((images[0] - images[1]).pow(2).mean()), rel=1e-4)
    unit, step = int(slope[site.name].abs().argmax()), 0.05
    sides = []
    for sign in (1, -1):
        moved = torch.ones(site.units)
        moved[unit] += sign * step
        sides.append(pull(tiny, MEMORIZED, {site.name: moved}, **options)[0])
    assert float(slope[site.name][unit]) == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=0.05)


class OneChannelMatters:
    """The picture changes only when channel 3 of layer "a" is off."""

    def __init__(self):
        self.calls = 0

    def likeness(self, off):
        self.calls += 1
        return 0.2 if ("a", 3) in off else 1.0


def test_nemo_finds_the_channel_that_matters_and_drops_the_rest():
    z = torch.tensor([0.0, 1.0, 2.0, 3.1, 4.6])
    activations = {"a": (z, z.flip(0)), "b": (z, z)}
    off = _search(OneChannelMatters(), activations, theta=5.0, limit=0.4, refine=False)
    assert {("a", 3), ("a", 4), ("b", 3), ("b", 4)} <= off  # 4.6 deviations are found before 3.1
    blocker = OneChannelMatters()
    assert _search(blocker, activations, theta=5.0, limit=0.4, refine=True) == {("a", 3)}
    never = _search(OneChannelMatters(), {"b": activations["b"]}, theta=5.0, limit=0.4, refine=True)
    assert len(never) == 5  # nothing helped, and so nothing is known to be superfluous


def test_value_channels_are_parts_of_a_head(tiny):
    value = tiny.sites(("value",))[0]
    head = next(s for s in tiny.sites(("head",)) if value.name.startswith(s.name + "."))
    assert value.units == head.units * head.width
    off = {head.name: torch.ones(head.units), value.name: torch.ones(value.units)}
    off[head.name][0] = 0
    with masked(tiny, {head.name: off[head.name]}):
        want = tiny.latents(MEMORIZED, steps=1)
    channels = torch.ones(value.units)
    channels[: head.width] = 0
    with masked(tiny, {value.name: channels}):
        assert torch.equal(tiny.latents(MEMORIZED, steps=1), want)
    with masked(tiny, off | {value.name: channels}):  # both at once
        assert torch.equal(tiny.latents(MEMORIZED, steps=1), want)
    assert math.prod(tiny.latents(MEMORIZED, steps=1).shape) and not torch.equal(tiny.latents(MEMORIZED, steps=1), want)
