"""What adapters owe their users beyond sampling: latents, noise, levels, clones, masks by step."""

import pytest
import torch
from conftest import UNETS, hooks

from uniforget_lib import count, masked, masked_steps, rollout
from uniforget_lib.locate import random

PROMPTS = ["a cat on a blue ground", "a rocket left of a house on a pink ground"]


def test_masks_by_step_are_those_of_their_levels(tiny):
    masks = [random(tiny, kinds=("ffn",), seed=s).mask(ratio=0.3) for s in range(3)]
    x, sigmas, cond = tiny.noise(2, 0), tiny.sigmas(3), tiny.encode(PROMPTS)
    plain = tiny.latents(PROMPTS, steps=3)
    with torch.no_grad():
        for k in range(3):
            with masked(tiny, masks[k]):
                x = x + (sigmas[k + 1] - sigmas[k]) * tiny.predict(x, sigmas[k], cond)
    with masked_steps(tiny, masks, sigmas):
        assert torch.allclose(tiny.latents(PROMPTS, steps=3), x, atol=1e-6)
    assert torch.equal(tiny.latents(PROMPTS, steps=3), plain) and not torch.allclose(plain, x, atol=1e-3)
    gates = {tiny.sites(("ffn",))[0].name: torch.ones(tiny.sites(("ffn",))[0].units, requires_grad=True)}
    with masked_steps(tiny, [masks[0], gates], tiny.sigmas(2)):  # checkpointed steps find their gates again
        rollout(tiny.predict, tiny.noise(2, 0), tiny.sigmas(2), cond, checkpoint=True).sum().backward()
    assert gates.popitem()[1].grad.abs().max() > 0 and hooks(tiny) == 0
    with pytest.raises(ValueError, match="one mask a step"), masked_steps(tiny, masks, tiny.sigmas(1)):
        pass


def test_images_go_to_latents_and_noise_to_levels(tiny):
    """What is trained and attacked on: clean latents, a noise level, and the slope that leads back."""
    vae, images = tiny.pipe.vae, torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    vae.register_to_config(scaling_factor=0.3, shift_factor=0.0 if tiny.family in UNETS else 0.1)
    x0 = tiny.latents_of(images)
    assert x0.shape == tiny.noise(2, 0).shape
    with torch.no_grad():
        z = vae.encode(images * 2 - 1).latent_dist.mean
        want = vae.decode(z, return_dict=False)[0] / 2 + 0.5
    assert torch.allclose(tiny.decode(x0), want.clamp(0, 1), atol=1e-5)
    assert float(x0.std()) == pytest.approx(0.3 * float(z.std()), rel=1e-3)
    unit, sigma = tiny.noise(2, 1) / tiny.input_scale(tiny.sigmas(1)[0]), tiny.level(0.4)
    assert tiny.level(1.0) == pytest.approx(float(tiny.sigmas(1)[0])) and 0 < sigma < tiny.level(1.0)
    if tiny.family in UNETS:  # the scheduler's own, in k-diffusion's scale
        theirs = tiny.pipe.scheduler.add_noise(x0, unit, torch.tensor([400, 400])) * (1 + sigma**2).sqrt()
    else:
        theirs = 0.6 * x0 + 0.4 * unit
    x = tiny.noised(x0, unit, sigma)
    assert torch.allclose(x, theirs, atol=1e-5)
    slope = unit if tiny.family in UNETS else unit - x0
    assert torch.allclose((x - x0) / sigma, slope, atol=1e-4)
    cond = tiny.encode(PROMPTS)
    for name, kind in tiny.text_layers().items():
        assert tiny.denoiser.get_submodule(name).in_features == getattr(cond, kind).shape[-1]


def test_clones_leave_hooks_behind_and_refuse_masks(tiny):
    mask = random(tiny, kinds=("ffn",)).mask(ratio=0.3)
    plain = tiny.latents(PROMPTS, steps=1)
    with count(tiny) as forwards:
        other = tiny.clone()
        assert torch.equal(other.latents(PROMPTS, steps=1), plain) and forwards[0] == 0
    assert hooks(other) == 0 and other.fingerprint == tiny.fingerprint
    for inside in (masked(tiny, mask), masked_steps(tiny, [mask], tiny.sigmas(1))):
        with inside, pytest.raises(RuntimeError, match="bake the mask first"):
            tiny.clone()
    with torch.no_grad():
        next(other.denoiser.parameters()).mul_(1.1)
    with masked(other, mask):  # a mask of the base fits what was made of it
        assert not torch.equal(other.latents(PROMPTS, steps=1), plain)
    assert torch.equal(tiny.latents(PROMPTS, steps=1), plain)


def test_masks_by_step_nest(tiny):
    first, second = (random(tiny, kinds=("ffn",), seed=s).mask(ratio=0.3) for s in (1, 2))
    plain = tiny.latents(PROMPTS, steps=1)
    with masked(tiny, first):
        want = tiny.latents(PROMPTS, steps=1)
    with masked_steps(tiny, [first], tiny.sigmas(1)):
        with masked_steps(tiny, [second], tiny.sigmas(1)):
            both = tiny.latents(PROMPTS, steps=1)
        assert torch.equal(tiny.latents(PROMPTS, steps=1), want)
    assert torch.equal(tiny.latents(PROMPTS, steps=1), plain) and not torch.equal(both, want)
