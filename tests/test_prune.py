"""Shrinking: masked, baked and shrunk models draw the same, and what is shrunk is smaller, saves and loads."""

import huggingface_hub
import pytest
import torch
from conftest import TINY
from diffusers import DiffusionPipeline
from huggingface_hub.errors import EntryNotFoundError

from uniforget_lib import Mask, bake, load, masked, save, shrink
from uniforget_lib.locate import magnitude, random
from uniforget_lib.sites import KINDS

PROMPTS = ["a cat on a blue ground", "a rocket left of a house on a pink ground"]


def weights(adapter) -> int:
    return sum(p.numel() for p in adapter.denoiser.parameters())


def emptied(adapter) -> Mask:
    """A third of all units off, at random; and one site of every kind quite empty."""
    mask = random(adapter, kinds=("ffn", "head", "norm")).mask(ratio=0.35)
    for kind in ("ffn", "head", "norm"):
        for site in [s for s in adapter.sites(("ffn", "head", "norm")) if s.kind == kind][-1:]:
            mask.values[site.name].zero_()
    return mask


def test_shrunk_draws_what_masked_draws(tiny):
    mask = emptied(tiny)
    with masked(tiny, mask):
        want = tiny.latents(PROMPTS, steps=2)
    before = weights(tiny)
    small = shrink(tiny, mask, multiple=1)
    for other in (bake(tiny, mask), small):
        assert (other.latents(PROMPTS, steps=2) - want).abs().max() < 1e-5 * want.abs().max()
    assert weights(small) < 0.85 * before and weights(tiny) == before
    assert not torch.allclose(tiny.latents(PROMPTS, steps=2), want, atol=1e-3)
    image = small.pipe(PROMPTS[0], **CALL[tiny.family]).images  # a pipeline as any other
    assert image.shape == (1, 3, 64, 64) and image.isfinite().all()


CALL = {family: {"num_inference_steps": 1, "output_type": "pt"} for family in TINY}
CALL["flux"] |= {"height": 64, "width": 64, "max_sequence_length": 16}


@pytest.mark.parametrize("multiple", [1, 8, 64])
def test_widths_are_rounded_up(flux, multiple):
    small = shrink(flux, random(flux, kinds=("ffn",)).mask(ratio=0.5), multiple=multiple)
    widths = {s.name: s.units for s in small.sites(("ffn",))}
    for site in flux.sites(("ffn",)):
        assert widths[site.name] % multiple == 0 and 0.4 * site.units < widths[site.name] <= 0.6 * site.units + multiple


def test_nothing_to_remove_changes_nothing(tiny):
    same = shrink(tiny, Mask.ones(tiny.sites(), tiny.fingerprint))
    assert weights(same) == weights(tiny)
    assert torch.allclose(same.latents(PROMPTS, steps=1), tiny.latents(PROMPTS, steps=1), atol=1e-6)


def test_shrunk_pipeline_saves_and_loads(tiny, tmp_path):
    mask = emptied(tiny)
    small = shrink(tiny, mask)
    save(small, tmp_path / "p")
    again = load(tmp_path / "p", **({} if tiny.family == "flux" else {"guidance": 1.0}))
    assert torch.equal(again.latents(PROMPTS, steps=1), small.latents(PROMPTS, steps=1))
    assert again.fingerprint == small.fingerprint != tiny.fingerprint
    with pytest.raises(ValueError, match=tiny.fingerprint):
        shrink(again, mask)  # a mask for the whole model
    kinds = ("ffn",) if tiny.family in ("sd", "sdxl") else ("ffn", "norm")
    more = magnitude(again, kinds=kinds).mask(ratio=0.5)  # but it can be shrunk again, norms included
    further = shrink(again, more, multiple=1)
    with masked(again, more):
        want = again.latents(PROMPTS, steps=1)
    assert torch.allclose(further.latents(PROMPTS, steps=1), want, atol=1e-5 * float(want.abs().max()))
    assert weights(further) < weights(again)
    assert not list((tmp_path / "p").rglob("*.bin"))


def test_a_shrunk_folder_that_does_not_fit_is_refused(flux, tmp_path):
    for ratio, name in ((0.3, "a"), (0.6, "b")):
        save(shrink(flux, random(flux, kinds=("ffn",)).mask(ratio=ratio)), tmp_path / name)
    (tmp_path / "a" / "uniforget.json").write_bytes((tmp_path / "b" / "uniforget.json").read_bytes())
    with pytest.raises(ValueError, match="does not fit"):
        load(tmp_path / "a")


def test_shrink_refuses_what_it_cannot_do(tiny):
    with pytest.raises(TypeError, match="cut a score first"):
        shrink(tiny, random(tiny))
    value = tiny.sites(("value",))
    with pytest.raises(ValueError, match="value channels"):
        shrink(tiny, Mask.ones(value, tiny.fingerprint))
    assert {s.kind for s in tiny.sites(KINDS)} >= {"ffn", "head", "value"}


def test_a_whole_pipeline_may_take_a_shrunk_one_s_place(tiny, tmp_path):
    mask = random(tiny, kinds=("ffn",)).mask(ratio=0.4)
    save(shrink(tiny, mask), tmp_path)
    save(bake(tiny, mask), tmp_path)
    again = load(tmp_path, **({} if tiny.family == "flux" else {"guidance": 1.0}))
    assert weights(again) == weights(tiny) and again.fingerprint == tiny.fingerprint


def test_a_shrunk_pipeline_comes_from_the_hub_whole(flux, tmp_path, monkeypatch):
    """diffusers alone would leave uniforget.json behind, and then fail on sizes."""
    small = shrink(flux, random(flux, kinds=("ffn",)).mask(ratio=0.4))
    save(small, tmp_path)
    asked = []

    def download(repository, file):
        asked.append((repository, file))
        if repository == "someone/plain":
            raise EntryNotFoundError("none")
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repository: str(tmp_path))
    load(tmp_path)
    assert not asked  # a folder is a folder
    again = load("someone/forgetful")
    assert torch.equal(again.latents(PROMPTS, steps=1), small.latents(PROMPTS, steps=1))
    monkeypatch.setattr(DiffusionPipeline, "load_config", lambda source: {"_class_name": "PixArtAlphaPipeline"})
    with pytest.raises(ValueError, match="PixArtAlphaPipeline has no adapter"):
        load("someone/plain")
    assert asked == [("someone/forgetful", "uniforget.json"), ("someone/plain", "uniforget.json")]
