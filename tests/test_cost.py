"""What models cost: full-size configurations against the papers' counts, and counts against what pruning takes."""

from collections import Counter

import pytest
import torch
from conftest import TINY, UNETS
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from uniforget_lib import Mask, evaluate, shrink
from uniforget_lib.locate import random
from uniforget_lib.models import FULL_SIZE, Cond, skeleton


def sizes(adapter, kind: str) -> Counter:
    return Counter((s.units, s.width) for s in adapter.all_sites() if s.kind == kind)


def test_full_size_models_have_the_layers_of_the_papers():
    """Names and sizes only: full-size configurations on the meta device."""
    sd, xl, sd3, flux = (skeleton(name) for name in FULL_SIZE)
    names = sd.text_attention()
    assert len(names) == 16 and names[3].startswith("down_blocks.1.attentions.1")  # Ren's layer 3
    assert sum(sizes(sd, "ffn").values()) == 16 and sum(sizes(sd, "head").values()) == 32
    assert [s.name for s in sd.all_sites() if s.kind == "value"][6].startswith("mid_block")  # NeMo's seven layers
    assert len(xl.text_attention()) == sum(sizes(xl, "ffn").values()) == 70
    assert len(flux.text_attention()) == 19 + 38
    assert sizes(flux, "head") == {(24, 128): 57}
    assert sizes(flux, "ffn") == {(12288, 1): 38 + 38}  # two a double block, one a single block
    assert sizes(flux, "norm") == {(18432, 1): 38, (9216, 1): 38}
    assert sizes(sd3, "head") == {(24, 64): 24} and sizes(sd3, "ffn") == {
        (6144, 1): 47
    }  # the last one gives up the text


def test_full_size_models_do_as_much_work_as_is_known():
    """SD 1.4: 0.8 TFLOP a picture of 512 pixels, 859,520,964 weights; SDXL: 2.6 billion; FLUX: 12 billion."""
    sd, flux = skeleton("Stable Diffusion 1.4"), skeleton("FLUX.1-schnell", resolution=512)
    assert evaluate.weights(sd) == 859_520_964 and evaluate.flops(sd) == pytest.approx(0.8e12, rel=0.02)
    assert evaluate.weights(skeleton("SDXL")) == 2_567_463_684
    assert evaluate.weights(flux) == pytest.approx(11.9e9, rel=0.01)
    # by hand: 57 feed-forward matrices of 3,072 x 12,288 each way, on 1,024 + 256 tokens (the double blocks split them)
    assert evaluate.flops(flux, ("ffn",)) == 57 * 2 * 2 * 3072 * 12288 * 1280
    assert evaluate.flops(flux, ("norm",)) < 1e-3 * evaluate.flops(flux)  # memory, never speed
    assert evaluate.weights(flux, ("norm",)) > 0.27 * evaluate.weights(flux)
    with pytest.raises(ValueError, match="FLUX.2.*use one of"):
        skeleton("FLUX.2")


@pytest.mark.parametrize("kind", ["ffn", "norm", "head"])
def test_what_pruning_can_touch_is_what_it_takes(kind):
    """Everything of a kind gone, but for one dead unit a site: the counts fall by what they said, save the dead ones'."""
    for make in TINY.values():
        tiny = make()
        sites = [s for s in tiny.sites() if s.kind == kind]
        if not sites:  # a U-Net has no adaptive norms
            assert kind == "norm" and tiny.family in UNETS
            continue
        small = shrink(tiny, Mask({s.name: torch.zeros(s.units) for s in sites}, tiny.fingerprint), multiple=1)
        for count in (evaluate.weights, evaluate.flops):
            dead = 0 if kind == "norm" else count(small, (kind,))
            assert count(small) == pytest.approx(count(tiny) - count(tiny, (kind,)) + dead, rel=1e-3)
            assert 0 < count(tiny, (kind,)) < count(tiny)


def test_work_falls_with_the_share_of_neurons(flux):
    ffn = evaluate.flops(flux, ("ffn",)) / evaluate.flops(flux)
    for ratio in (0.25, 0.5):
        small = shrink(flux, random(flux, kinds=("ffn",)).mask(ratio=ratio, scope="site"), multiple=1)
        assert evaluate.flops(small) / evaluate.flops(flux) == pytest.approx(1 - ratio * ffn, abs=2e-3)


def test_only_the_denoiser_is_counted(tiny):
    """Not the text encoders."""
    x, sigma, cond = tiny.noise(1, 0), tiny.sigmas(1)[0], tiny.encode([""])
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        tiny.conditional(x, sigma, cond)
    assert evaluate.flops(tiny) == counter.get_total_flops()
    for count in (evaluate.flops, evaluate.weights):
        with pytest.raises(ValueError, match="value channels"):
            count(tiny, ("head", "value"))


def test_rows_and_columns_are_counted_once(tiny, monkeypatch):
    """By hand, for one feed-forward site: the rows of what writes it with their biases, the columns of what reads it."""
    site = tiny.sites(("ffn",))[0]
    whole = {ref.linear: tiny.denoiser.get_submodule(ref.linear) for ref in (*site.readers, *site.writers)}
    rows = sum((w.stop - w.start) * (whole[w.linear].in_features + 1) for w in site.writers)
    columns = sum((r.stop - r.start) * whole[r.linear].out_features for r in site.readers)
    monkeypatch.setattr(tiny, "sites", lambda kinds: [site])
    assert evaluate.weights(tiny, ("ffn",)) == rows + columns


@pytest.mark.parametrize("kinds", [("ffn",), ("head",), ("ffn", "head")])
@pytest.mark.parametrize("family", TINY)
def test_a_graph_is_as_large_on_the_meta_device(family, kinds):
    """The same bytes where attention is computed and where it only has a shape; more gates need no fewer."""
    tiny = TINY[family]()
    real, bare = evaluate.graph(tiny, kinds), tiny.clone()
    cond = tiny.encode([""])
    bare.denoiser.to("meta")
    bare.encode = lambda prompts: Cond(*(v if v is None else v.to("meta") for v in (cond.embeds, cond.pooled)))
    if family in UNETS:
        bare.sigmas = lambda steps: tiny.sigmas(steps)
    close = 0.02 if kinds == ("ffn",) else 0.1  # small attentions are computed by other kernels than large ones
    assert evaluate.graph(bare, kinds) == pytest.approx(real, rel=close)
    assert evaluate.graph(tiny, ("ffn", "head")) >= real > 100_000
    assert evaluate.graph(tiny, kinds) == real and not any(p.requires_grad for p in tiny.denoiser.parameters())


def test_time_ratio_pairs_what_runs_side_by_side():
    calls = []
    found = evaluate.time_ratio(lambda: calls.append("a") or sum(range(20000)), lambda: calls.append("b") or sum(range(200)),
                                pairs=6, warm=1)  # fmt: skip
    assert calls == list("ab" + "baab" * 3) and found.low <= found.mean <= found.high
    assert found.mean > 3
