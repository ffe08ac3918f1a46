"""Locators that are told memorized prompts: golden numbers, and what each of them owes its user."""

import pytest
import torch

from uniforget_lib import count, locate, masked, record, rollout
from uniforget_lib.locate.gradient import Pull, attributions
from uniforget_lib.locate.nemo import _search

MEMORIZED = ["a cat on a blue ground", "a rocket left of a house on a pink ground"]
BASE = ["a tree on a white ground", "a fish on a gray ground", "a car above a cat on a green ground"]
OPTIONS = {"nemo": {"seeds": (0, 1)}, "integrated": {"points": 2}}


@pytest.mark.filterwarnings("ignore:.*ends among")
@pytest.mark.parametrize("name", locate.CONTRASTS)
def test_contrasts_keep_the_contract(tiny, name):
    before = {n: p.clone() for n, p in tiny.denoiser.named_parameters()}
    with count(tiny) as forwards:
        score = locate.CONTRASTS[name](tiny, MEMORIZED, BASE, **OPTIONS.get(name, {}))
    kind = {"nemo": ("value",), "gradient": ("ffn", "norm"), "integrated": ("ffn", "norm")}.get(name, ("ffn",))
    assert {n: len(v) for n, v in score.values.items()} == {s.name: s.units for s in tiny.sites(kind)}
    assert all(v.isfinite().all() for v in score.values.values())
    backward = {"gradient": 3 / 2, "integrated": 6 / 4}.get(name, 1)  # backward passes count, and are no forwards
    assert score.cost == pytest.approx(backward * forwards[0]) and score.fingerprint == tiny.fingerprint
    if name != "nemo":  # of random weights, no prompt is memorized
        assert sum(int((v != 0).sum()) for v in score.values.values()) > 4
    if name in ("activation", "gradient", "integrated"):  # what is memorized counts for, the rest against
        swapped = locate.CONTRASTS[name](tiny, BASE, MEMORIZED, **OPTIONS.get(name, {}))
        assert all(torch.allclose(v, -swapped.values[n], atol=1e-5) for n, v in score.values.items())
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
        for prompts in (MEMORIZED, ["", ""]):
            sd.conditional(sd.noise(len(prompts), 0), sd.sigmas(10)[0], sd.encode(prompts))
    handle.remove()
    norms = []
    for x in seen:
        tokens = x.reshape(-1, site.units)
        tokens = tokens / tokens.norm(dim=1, keepdim=True)
        norms.append(tokens.norm(dim=0))
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
    pull = Pull(tiny, MEMORIZED, steps=2, seed=0, batch=2)
    ones = {s.name: torch.ones(s.units) for s in tiny.sites(("ffn",))}
    open_, none = (pull(gates, gradient=False)[0] for gates in (ones, {n: 0 * g for n, g in ones.items()}))
    shares = attributions(pull, ones, [(k + 0.5) / 24 for k in range(24)])
    assert sum(float(v.sum()) for v in shares.values()) == pytest.approx(open_ - none, rel=2e-2)


def test_pull_and_its_gradient_by_differences(tiny):
    site = tiny.sites(("ffn",))[0]
    pull = Pull(tiny, MEMORIZED, steps=2, seed=0, batch=1)
    value, slope = pull({site.name: torch.ones(site.units)})
    again = Pull(tiny, MEMORIZED, steps=2, seed=0, batch=2, checkpoint=True)({site.name: torch.ones(site.units)})
    assert again[0] == pytest.approx(value, rel=1e-4)
    assert (again[1][site.name] - slope[site.name]).abs().max() < 1e-3 * slope[site.name].abs().max()
    x, sigmas = tiny.noise(2, 0), tiny.sigmas(2)
    with torch.no_grad():
        images = [rollout(tiny.conditional, x, sigmas, cond) for cond in (tiny.encode(MEMORIZED), tiny.empty(2))]
    assert value == pytest.approx(float((images[0] - images[1]).pow(2).mean()), rel=1e-4)
    unit, step = int(slope[site.name].abs().argmax()), 0.05
    sides = []
    for sign in (1, -1):
        moved = torch.ones(site.units)
        moved[unit] += sign * step
        sides.append(pull({site.name: moved}, gradient=False)[0])
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


def test_nemo_searches_from_the_last_layer_back():
    """Either of two channels suffices; the first one tried again is the one of the last layer, and it is dropped."""

    class EitherMatters:
        def likeness(self, off):
            return 0.2 if off & {("b", 1), ("a", 1)} else 1.0

    z = torch.tensor([0.0, 9.0])
    assert _search(EitherMatters(), {"b": (z, z), "a": (z, z)}, theta=5.0, limit=0.4, refine=True) == {("b", 1)}


def test_nemo_finds_a_planted_channel(sd):
    """One value channel of one layer is made to shout for one word, and so to decide the picture."""
    site = sd.sites(("value",))[0]
    embeds = [sd.encode(p).embeds.mean(1) for p in (MEMORIZED[:1], BASE)]
    direction = embeds[0][0] - embeds[1].mean(0)
    out = sd.denoiser.get_submodule(site.name.replace("to_v", "to_out.0"))
    with torch.no_grad():
        sd.denoiser.get_submodule(site.name).weight[5] = 300 * direction / direction.norm() ** 2
        out.weight[:, 5] *= 20
    score = locate.nemo(sd, MEMORIZED[:1], BASE, seeds=(0, 1, 2), limit=0.05)
    assert score.values[site.name][5] == 1
    found, channels = (sum(f(v) for v in score.values.values()) for f in (lambda v: float(v.sum()), len))
    assert found < 0.05 * channels  # and little else


def test_value_channels_are_those_of_the_text(tiny):
    """Switching all of them off is to attend to a text of zeros."""
    off = {s.name: torch.zeros(s.units) for s in tiny.sites(("value",))}
    x, sigma, cond = tiny.noise(2, 0), tiny.sigmas(2)[0], tiny.encode(MEMORIZED)
    handles = [
        tiny.denoiser.get_submodule(name).register_forward_hook(lambda m, args, out: torch.zeros_like(out))
        for name in off
    ]
    with torch.no_grad():
        want = tiny.conditional(x, sigma, cond)
        for handle in handles:
            handle.remove()
        with masked(tiny, off):
            assert torch.equal(tiny.conditional(x, sigma, cond), want)
        assert not torch.equal(tiny.conditional(x, sigma, cond), want)


def test_scores_with_ties_say_so(tiny):
    values = {s.name: torch.zeros(s.units) for s in tiny.sites(("ffn",))}
    next(iter(values.values()))[3] = 1.0
    score = locate.activation(tiny, MEMORIZED, BASE)
    score.values = values
    with pytest.warns(UserWarning, match=r"ends among \d+ units of score 0"):
        score.mask(ratio=0.3)
    first = next(iter(score.mask(threshold=0.5).values.values()))
    assert first[3] == 0 and first.sum() == len(first) - 1


def test_activity_is_recorded_prompt_by_prompt(tiny):
    found = locate.activity(tiny, BASE, sampling_steps=2, batch=2)
    site = tiny.sites(("ffn",))[0]
    assert found[site.name].shape == (3, site.units)
    with record(tiny, [site]) as power:
        tiny.latents(BASE[:1], steps=2)
    assert torch.allclose(found[site.name][0], power[site.name].sqrt(), atol=1e-5)
    norms = locate.activity(tiny, BASE, kinds=("head",), sampling_steps=2, batch=3)
    again = locate.activity(tiny, BASE, kinds=("head",), sampling_steps=2, batch=1)
    assert all(torch.allclose(norms[n], again[n], atol=1e-5) for n in norms)
