"""Sites, masks, hooks, sampler, adapter and baking, on tiny pipelines of the real classes of every family."""

import pytest
import torch
from conftest import TINY, UNETS, call, hooks

from uniforget_lib import Mask, Score, bake, load, masked, record, rollout
from uniforget_lib.locate import magnitude, random
from uniforget_lib.masks import hard_concrete, relaxed_sigmoid

PROMPTS = ["a cat on a blue ground", "a rocket left of a house on a pink ground"]


def state(adapter) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in adapter.denoiser.state_dict().items()}


def test_sampler_agrees_with_the_pipeline(tiny):
    for steps in (1, 4):
        want = call(tiny, PROMPTS[0], seed=10007 * 3, num_inference_steps=steps)
        got = tiny.images(PROMPTS[:1], steps=steps, seed=3)
        assert want.std() > 0.01
        assert (got - want).abs().max() < 1e-5


def test_guidance_agrees_with_the_pipeline(tiny):
    options = {
        "flux": {"negative_prompt": "", "true_cfg_scale": 2.0},
    }.get(tiny.family, {"guidance_scale": 2.0})
    plain = tiny.images(PROMPTS[:1], steps=4)
    want = call(tiny, PROMPTS[0], seed=0, num_inference_steps=4, **options)
    with tiny.guided(2.0):
        assert (tiny.images(PROMPTS[:1], steps=4) - want).abs().max() < 1e-5
    assert (plain - want).abs().max() > 1e-4
    assert torch.equal(tiny.images(PROMPTS[:1], steps=4), plain)


def test_velocity_prediction_is_noise_prediction_in_other_words(sd):
    x, sigma, cond = sd.noise(2, 0) / 5, sd.sigmas(4)[2], sd.encode(PROMPTS)
    alpha, s = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
    with torch.no_grad():
        v = sd.predict(x, sigma, cond)  # what the U-Net says, taken for eps
        sd.pipe.scheduler.register_to_config(prediction_type="v_prediction")
        eps = sd.predict(x, sigma, cond)  # the same output, taken for v
    x0 = alpha * (x * alpha) - s * v
    assert torch.allclose(x, x0 + sigma * eps, atol=1e-4)


def test_a_vae_that_the_pipeline_would_decode_wrong_is_refused(sd):
    sd.pipe.vae.register_to_config(shift_factor=0.1)
    with pytest.raises(ValueError, match="shift_factor"):
        type(sd)(sd.pipe)


def test_images_do_not_depend_on_the_batch(tiny):
    together = tiny.latents(PROMPTS * 3, seed=1, batch=6)
    apart = tiny.latents(PROMPTS * 3, seed=1, batch=2)
    assert (together - apart).abs().max() < 1e-5 * together.abs().max()


def test_sites_cover_the_channels_they_name(tiny):
    sites = tiny.sites()
    # A double block: 2 norm, heads, 2 ffn; a single block: norm, heads, ffn. The U-Net: 7 blocks of self, cross, ffn.
    # SDXL's has 8; the last joint block of SD3 has no second ffn.
    assert len(sites) == {"flux": 5 + 3, "sd": 7 * 3, "sdxl": 8 * 3, "sd3": 5 + 4}[tiny.family]
    assert len({s.name for s in sites}) == len(sites)
    for site in sites:
        for ref in site.readers:
            assert ref.stop <= tiny.denoiser.get_submodule(ref.linear).in_features
        for ref in site.writers:
            assert ref.stop <= tiny.denoiser.get_submodule(ref.linear).out_features
    assert {s.kind for s in tiny.sites(("value",))} == {"value"}
    if tiny.family in UNETS:
        with pytest.raises(ValueError, match="norm"):
            tiny.sites(["norm"])
    with pytest.raises(ValueError, match="nrom"):
        tiny.sites(["ffn", "nrom"])


def test_writers_make_what_readers_read(tiny):
    """A unit without its writers' rows is a unit that the mask removes: what shrinking will rely on."""
    for site in tiny.sites(["ffn", "head"]):
        gate = torch.ones(site.units)
        gate[0] = 0
        with masked(tiny, {site.name: gate}):
            want = tiny.latents(PROMPTS, steps=1)
        assert want.abs().max() > 0.1
        with torch.no_grad():
            for ref in site.writers:
                linear = tiny.denoiser.get_submodule(ref.linear)
                linear.weight[ref.start : ref.start + site.width] = 0
                if linear.bias is not None:
                    linear.bias[ref.start : ref.start + site.width] = 0
        assert (tiny.latents(PROMPTS, steps=1) - want).abs().max() < 1e-5 * want.abs().max()


def test_ones_change_no_bit(tiny):
    want = tiny.latents(PROMPTS)
    with masked(tiny, Mask.ones(tiny.sites(), tiny.fingerprint)):
        assert hooks(tiny) > 0
        got = tiny.latents(PROMPTS)
    assert torch.equal(want, got)


def test_mask_changes_output_and_leaves_no_trace(tiny):
    before, weights = tiny.latents(PROMPTS), state(tiny)
    mask = random(tiny).mask(ratio=0.5)
    with masked(tiny, mask):
        assert (tiny.latents(PROMPTS) - before).abs().max() > 1e-3
    with pytest.raises(RuntimeError, match="on purpose"), masked(tiny, mask):
        raise RuntimeError("on purpose")
    assert hooks(tiny) == 0
    assert all(torch.equal(weights[n], t) for n, t in tiny.denoiser.state_dict().items())
    assert torch.equal(tiny.latents(PROMPTS), before)


def test_a_bad_gate_leaves_no_hook(tiny):
    with pytest.raises(ValueError, match="units"), masked(tiny, {tiny.sites()[0].name: torch.ones(1)}):
        pass
    with pytest.raises(ValueError, match="does not have"), masked(tiny, {"no.such.site": torch.ones(1)}):
        pass
    assert hooks(tiny) == 0


def test_masking_a_unit_zeroes_exactly_its_channels(flux):
    tiny = flux
    site = next(s for s in tiny.sites(["head"]) if s.name.startswith("single"))
    ref = site.readers[0]
    seen = []
    module = tiny.denoiser.get_submodule(ref.linear)
    gate = torch.tensor([0.0, 1.0])
    with masked(tiny, {site.name: gate}):
        handle = module.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
        tiny.latents(PROMPTS, steps=1)
        handle.remove()
    x = seen[0]
    assert (x[..., : site.width] == 0).all()
    assert (x[..., site.width :] != 0).float().mean() > 0.9


@pytest.mark.parametrize("kinds", [("ffn",), ("head",), ("norm",), ("ffn", "head", "norm")])
@pytest.mark.parametrize("ratio", [0.3, 1.0])
def test_baked_equals_masked(tiny, kinds, ratio):
    if tiny.family in UNETS and kinds == ("norm",):
        with pytest.raises(ValueError, match="norm"):  # a U-Net has no adaptive norm that the paper masks
            random(tiny, kinds=kinds)
        return
    mask = random(tiny, kinds=kinds).mask(ratio=ratio)
    weights, plain = state(tiny), tiny.latents(PROMPTS)
    with masked(tiny, mask):
        want = tiny.latents(PROMPTS)
    baked = bake(tiny, mask)
    assert (baked.latents(PROMPTS) - want).abs().max() < 1e-5
    assert (want - plain).abs().max() > 1e-3
    assert all(torch.equal(weights[n], t) for n, t in tiny.denoiser.state_dict().items())
    assert baked.denoiser in baked.pipe.components.values()


def test_baked_pipeline_saves_and_loads(tiny, tmp_path):
    baked = bake(tiny, magnitude(tiny).mask(ratio=0.2))
    baked.pipe.save_pretrained(tmp_path / "p")
    again = load(tmp_path / "p", **({} if tiny.family == "flux" else {"guidance": 1.0}))
    assert (again.latents(PROMPTS) - baked.latents(PROMPTS)).abs().max() < 1e-5


@pytest.mark.parametrize("family", TINY)
def test_checkpointed_gradient_is_the_full_one(family):
    tiny = TINY[family](dtype=torch.float64)
    sites = tiny.sites()
    x, cond, sigmas = tiny.noise(2, 0), tiny.encode(PROMPTS), tiny.sigmas(4).double()
    grads = []
    for checkpoint in (False, True):
        gates = {s.name: torch.full((s.units,), 0.7, dtype=torch.float64, requires_grad=True) for s in sites}
        with masked(tiny, gates):
            rollout(tiny.predict, x, sigmas, cond, checkpoint=checkpoint).pow(2).mean().backward()
        grads.append(torch.cat([g.grad for g in gates.values()]))
    assert grads[0].abs().max() > 1e-6
    assert (grads[0] - grads[1]).abs().max() <= 1e-10 * grads[0].abs().max()


@pytest.mark.parametrize("family", TINY)
def test_gradient_is_that_of_the_whole_sampling(family):
    tiny = TINY[family](dtype=torch.float64)
    site = tiny.sites(["ffn"])[0]
    x, cond, sigmas = tiny.noise(1, 0), tiny.encode(PROMPTS[:1]), tiny.sigmas(3).double()

    def loss(gate):
        with masked(tiny, {site.name: gate}):
            return rollout(tiny.predict, x, sigmas, cond, checkpoint=True).pow(2).mean()

    gate = torch.ones(site.units, dtype=torch.float64, requires_grad=True)
    with masked(tiny, {site.name: gate}):
        rollout(tiny.predict, x, sigmas, cond, checkpoint=True).pow(2).mean().backward()
    unit, h = int(gate.grad.abs().argmax()), 1e-3
    step = torch.zeros_like(gate)
    step[unit] = h
    with torch.no_grad():
        numeric = (loss(gate + step) - loss(gate - step)) / (2 * h)
    # diffusers keeps the variance of RMSNorm in fp32, which bounds how well a finite difference can agree
    assert abs(numeric - gate.grad[unit]) < 1e-4 * abs(numeric)


def test_record_is_the_mean_square_of_the_masked_activation(tiny):
    site = tiny.sites(["ffn"])[0]
    module = tiny.denoiser.get_submodule(site.readers[0].linear)
    seen = []
    handle = module.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    with record(tiny, [site]) as got:
        tiny.latents(PROMPTS, steps=2)
    handle.remove()
    want = torch.cat([x.flatten(0, 1) for x in seen]).pow(2).mean(0)
    assert torch.allclose(got[site.name], want, rtol=1e-4)
    assert hooks(tiny) == 0


def test_hard_concrete_golden():
    logits, u = torch.tensor([0.0, 3.0, -3.0, 50.0]), torch.full((4,), 0.5)
    got = hard_concrete(logits, u)  # u = .5: no noise; sigmoid(l / .83) 1.2 - .1
    assert torch.allclose(got, torch.tensor([0.5, 1.0, 0.0, 1.0]), atol=0.01)
    assert abs(float(hard_concrete(torch.tensor(0.5), torch.tensor(0.9))) - 0.9023) < 1e-4
    assert abs(float(relaxed_sigmoid(torch.tensor(1.0))) - 0.802184) < 1e-5


def test_masks_combine_and_count(tiny):
    a, b = random(tiny, seed=1).mask(ratio=0.5), random(tiny, seed=2).mask(ratio=0.5)
    assert a.sparsity() == pytest.approx(0.5, abs=0.01)
    assert (a & b).sparsity() == pytest.approx(0.75, abs=0.05)
    assert (a | b).sparsity() == pytest.approx(0.25, abs=0.05)
    c = magnitude(tiny).match(a)
    assert {n: int((v == 0).sum()) for n, v in c.values.items()} == {
        n: int((v == 0).sum()) for n, v in a.values.items()
    }
    with pytest.raises(ValueError, match="ratio"):
        random(tiny).mask(ratio=1.2)
    with pytest.raises(ValueError, match="either"):
        random(tiny).mask()


def test_mask_of_another_model_is_refused(tiny, tmp_path):
    mask = random(tiny).mask(ratio=0.1)
    mask.save(tmp_path / "m.safetensors")
    again, name = Mask.load(tmp_path / "m.safetensors", tiny.fingerprint), next(iter(mask.values))
    assert torch.equal(again.values[name], mask.values[name])
    other = TINY[tiny.family](seed=1)
    for use in (lambda: Mask.load(tmp_path / "m.safetensors", other.fingerprint), lambda: bake(other, mask),
                lambda: masked(other, mask).__enter__()):  # fmt: skip
        with pytest.raises(ValueError, match=tiny.fingerprint):
            use()


def test_scores_are_saved_and_no_mask_passes_for_one(flux, tmp_path):
    score = random(flux, seed=3)
    score.cost = 12.0
    score.save(tmp_path / "s", note="of a test")
    again = Score.load(tmp_path / "s", flux.fingerprint)
    assert list(again.values) == list(score.values)  # in the same order
    assert all(torch.equal(v, score.values[n]) for n, v in again.values.items())
    assert (again.method, again.cost, again.fingerprint) == ("random", 12.0, flux.fingerprint)
    mask = score.mask(ratio=0.3)
    mask.save(tmp_path / "m", method="random")
    assert all(torch.equal(v, mask.values[n]) for n, v in Mask.load(tmp_path / "m").values.items())
    with pytest.raises(ValueError, match="not written by Score.save"):
        Score.load(tmp_path / "m")
    with pytest.raises(ValueError, match="holds a score, not a mask"):
        Mask.load(tmp_path / "s")
    with pytest.raises(ValueError, match="score for model .* not for 'sd-"):
        Score.load(tmp_path / "s", "sd-1")
    with pytest.raises(FileNotFoundError, match="a folder, not a file"):
        Score.load(tmp_path)
    with pytest.raises(TypeError, match="cut it first"), masked(flux, score):
        pass
    assert repr(mask).startswith(f"Mask({len(mask.values)} sites") and "0.300 off" in repr(mask)
    assert len(repr(score)) < 100 and repr(Mask({})) == "Mask(0 sites, 0 units, for '')"
