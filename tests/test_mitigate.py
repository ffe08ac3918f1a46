"""Mitigations while sampling: the quantity that defines each, by hand, and what each owes its user."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, UNETS, hooks
from test_detect_golden import Toy
from torch.overrides import TorchFunctionMode

from uniforget_lib import mitigate
from uniforget_lib.hooks import attention, count
from uniforget_lib.mitigate.random_tokens import augmented
from uniforget_lib.mitigate.ren import reweighted
from uniforget_lib.mitigate.safe_guidance import CONFIGS, avoidance
from uniforget_lib.mitigate.wen import lowered
from uniforget_lib.models.base import Cond

pytestmark = pytest.mark.filterwarnings("ignore:.*are cut there")
PROMPTS = ["a cat on a blue ground", "", "a " * 200]
CONCEPT = {"concept": "the emblem of kelwexvel"}
STRONG = {"wen": {"target": 1e-4, "iterations": 2}, "ren": {}, "random_tokens": {},
          "safe_guidance": CONCEPT | {"warmup": 0, "threshold": 1.0}}  # fmt: skip
NOTHING = {"wen": [{"target": math.inf}, {"iterations": 0}], "ren": [{"begin": 1, "drop": None}],
           "random_tokens": [{"count": 0}],
           "safe_guidance": [CONCEPT | {"scale": 0}, CONCEPT | {"warmup": 1}]}  # fmt: skip
# denoiser evaluations a prompt of the calls of STRONG, for two steps: without guidance and with it
COSTS = {"wen": (1 + 2 + 2, 1 + 2 + 4), "ren": (2, 4), "random_tokens": (2, 4), "safe_guidance": (6, 6)}


def weights(adapter) -> list[torch.Tensor]:
    return [p.clone() for part in adapter.pipe.components.values() if isinstance(part, torch.nn.Module)
            for p in part.parameters()]  # fmt: skip


def same(adapter, before) -> bool:
    return hooks(adapter) == 0 and all(torch.equal(p, q) for p, q in zip(weights(adapter), before, strict=True))


@pytest.mark.parametrize("name", mitigate.MITIGATIONS)
def test_mitigations_keep_the_contract(tiny, name):
    """Guided, as models with classifier-free guidance are; the costs without guidance too."""
    method, before = mitigate.MITIGATIONS[name], weights(tiny)
    with count(tiny) as bare:
        method(tiny, PROMPTS, steps=2, seed=3, **STRONG[name])
    with tiny.guided(3.0):
        plain = tiny.images(PROMPTS, steps=2, seed=3)
        with count(tiny) as forwards:
            found = method(tiny, PROMPTS, steps=2, seed=3, **STRONG[name])
        for found_cost, cost in zip((bare[0], forwards[0]), COSTS[name]):
            spared = name == "wen" and tiny.family != "sdxl"  # the empty prompt has no gap to lower; in SDXL it has
            assert found_cost == cost * len(PROMPTS) - spared
        parts = method(tiny, PROMPTS, steps=2, seed=3, batch=2, **STRONG[name])
        for nothing in NOTHING[name]:
            assert torch.allclose(method(tiny, PROMPTS, steps=2, seed=3, batch=2, **nothing), plain, atol=1e-5)
    assert tiny.cfg == 1 and same(tiny, before)
    assert not any(p.requires_grad or p.grad is not None for p in tiny.denoiser.parameters())
    assert found.shape == (3, 3, 64, 64) and found.dtype == torch.float32 and found.device.type == "cpu"
    assert found.min() >= 0 and found.max() <= 1
    assert torch.allclose(parts, found, atol=2e-3 if name == "wen" else 1e-4)  # AdamW looks at signs
    assert (found - plain)[0].abs().max() > 1e-4


@pytest.mark.parametrize("name", mitigate.MITIGATIONS)
def test_the_model_is_restored_after_an_exception(sd, name, monkeypatch):
    before, calls = weights(sd), []
    block = sd.denoiser.get_submodule(sd.text_attention()[1])
    forward = block.forward

    def fail(*args, **kwargs):
        calls.append(0)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return forward(*args, **kwargs)

    with torch.no_grad():
        plain = sd.conditional(sd.noise(1, 0), sd.sigmas(2)[0], sd.encode(PROMPTS[:1]))
    with monkeypatch.context() as patch, sd.guided(3.0):
        patch.setattr(block, "forward", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            mitigate.MITIGATIONS[name](sd, PROMPTS[:1], steps=2, **STRONG[name])
    assert len(calls) == 2 and sd.cfg == 1 and same(sd, before)
    with torch.no_grad():
        assert torch.equal(sd.conditional(sd.noise(1, 0), sd.sigmas(2)[0], sd.encode(PROMPTS[:1])), plain)


def gaps(adapter, cond, seed=0, steps=2) -> torch.Tensor:
    x, sigma = adapter.noise(len(cond), seed), adapter.sigmas(steps)[0]
    with torch.no_grad():
        gap = adapter.conditional(x, sigma, cond) - adapter.conditional(x, sigma, adapter.empty(len(x)))
    return gap.flatten(1).pow(2).mean(1).sqrt()


def test_wen_brings_the_gap_below_its_target(tiny):
    prompts = ["a cat on a blue ground", "a fish on a gray ground", "pink paper showing robot up to bell", "a"]
    start = tiny.encode(prompts)
    before = gaps(tiny, start)
    target = float(before.min() + before.max()) / 2
    found = lowered(tiny, prompts, target=target, iterations=40, steps=2)
    moved = before > target
    assert 1 <= moved.sum() <= 3 and (gaps(tiny, found)[moved] < target * (1 + 1e-5)).all()
    for i in range(4):
        assert torch.equal(found.embeds[i], start.embeds[i]) != moved[i]
    assert torch.equal(found.embeds[:, : tiny.begin], start.embeds[:, : tiny.begin])
    alone = lowered(tiny, prompts, target=target, iterations=40, steps=2, batch=1)
    assert torch.allclose(alone.embeds, found.embeds, atol=1e-2)
    with count(tiny) as forwards:  # an early end is paid for as such
        mitigate.wen(tiny, prompts, target=2 * float(before.max()), steps=2)
    assert forwards[0] == 4 * (1 + 1 + 2)


def test_wen_by_hand():
    """An embedding of two tokens a, b of one channel; slope a x + b sigma, at x = sigma = 1. The gap to the empty one,
    (-1, 0), is a + b + 1, and of the two only b is free: a is the begin token."""
    toy, b, lr, decay = Toy(), 1.0, 0.05, 0.01
    toy.encode_checked = lambda prompts: Cond(torch.tensor([[[-0.5], [1.0]]] * len(prompts)))
    toy.empty = lambda n: Cond(torch.tensor([[[-1.0], [0.0]]] * n))
    run = toy.conditional
    toy.conditional = lambda x, sigma, cond: run(x, sigma, Cond(cond.embeds[..., 0]))
    for k in range(1, 4):  # a constant gradient: AdamW moves by lr, after its decay
        b = b * (1 - lr * decay) - lr
        found = lowered(toy, ["memorized"], target=0.0, iterations=k, steps=1).embeds.flatten().tolist()
        assert found == pytest.approx([-0.5, b], abs=1e-5)
    ends = lowered(toy, ["memorized"], target=-0.5 + b + 1 + 0.01, steps=1).embeds.flatten().tolist()
    assert ends == pytest.approx([-0.5, b], abs=1e-5)  # stops there by itself


class Weights(TorchFunctionMode):
    """Weights of every attention that is computed inside, after what inner modes do to it: [n, heads, query, key]."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value"), args)) | (kwargs or {})
            logits = named["query"] @ named["key"].mT * (named.get("scale") or named["query"].shape[-1] ** -0.5)
            mask = named.get("attn_mask")
            logits = logits if mask is None else logits.masked_fill(~mask, -math.inf)
            self.found.append(logits.softmax(-1))
        return func(*args, **(kwargs or {}))


LENGTHS = {"sd": [8, 2], "sdxl": [8, 2], "flux": [7, 1], "sd3": [8, 2]}  # begin and end included; T5 has no begin


@pytest.mark.parametrize("drop", ["padding", "summary"])
def test_ren_takes_the_weight_from_padding(tiny, drop):
    prompts, x, sigma = PROMPTS[:2], tiny.noise(2, 0), tiny.sigmas(2)[0]
    cond, lengths = tiny.encode(prompts), tiny.prompt_lengths(prompts)
    assert lengths.tolist() == LENGTHS[tiny.family]
    text, seen = tiny.empty(1).embeds.shape[1], []  # encoded now: the text encoder has attention too
    for options in ({"begin": 1, "drop": None}, {"begin": 1.25, "drop": drop}):
        with torch.no_grad(), Weights() as mode, reweighted(tiny, lengths, **options):
            tiny.conditional(x, sigma, cond)
        seen.append(mode.found)
    if tiny.family in UNETS:  # the first cross-attention; no self-attention is touched
        plain, other = (next(w for w in found if w.shape[-1] == text) for found in seen)
    else:  # one attention became two: the image's queries, then the words' own
        plain = seen[0][0]
        size = plain.shape[-1] - text
        other, words = seen[1][:2]
        split = [text, size] if tiny.text_first else [size, text]
        own, plain = sorted(plain.split(split, dim=2), key=lambda part: part.shape[2] == size)
        assert torch.allclose(words, own, atol=1e-6)
    first = 0 if tiny.family in UNETS or tiny.text_first else plain.shape[-1] - text
    gone = torch.zeros_like(plain)
    for i, length in enumerate(lengths.tolist()):
        start = first + length - (drop == "summary")
        assert (other[i, :, :, start : first + tiny.max_tokens] == 0).all()
        gone[i, :, :, start : first + tiny.max_tokens] = 1
    logits = plain.double().log()  # up to a constant a row: what is left keeps its ratios, but for the begin token
    want = logits.masked_fill(gone.bool(), -math.inf)
    rest = torch.ones(plain.shape[-1]).bool()
    rest[first] = tiny.begin == 0
    left = want[..., rest].softmax(-1)
    assert torch.allclose(other.double()[..., rest] / other.double()[..., rest].sum(-1, keepdim=True).clamp(min=1e-12),
                          left.nan_to_num(0), atol=1e-5)  # fmt: skip
    moved = other[0, ..., first] / plain[0, ..., first] * plain[0, ..., first + 1] / other[0, ..., first + 1]
    assert ((moved - 1).abs().max() > 1e-3) == bool(tiny.begin)


def test_ren_raises_the_begin_token(sd):
    """The whole layer by hand, from its queries and keys: logits of the begin token are multiplied by c1."""
    cond, x, sigma = sd.encode(PROMPTS), sd.noise(3, 0), sd.sigmas(4)[1]
    lengths, layer, seen = sd.prompt_lengths(PROMPTS), sd.denoiser.get_submodule(sd.text_attention()[0]), {}
    parts = {"q": layer.to_q, "k": layer.to_k, "v": layer.to_v}
    handles = [m.register_forward_hook(lambda m, args, out, k=k: seen.update({k: out})) for k, m in parts.items()]
    handles.append(layer.to_out[0].register_forward_pre_hook(lambda m, args: seen.update({"out": args[0]})))
    with torch.no_grad(), reweighted(sd, lengths, begin=1.25):
        sd.conditional(x, sigma, cond)
    for handle in handles:
        handle.remove()
    q, k, v = (seen[key].unflatten(-1, (layer.heads, -1)).transpose(1, 2) for key in "qkv")
    logits = q @ k.mT / q.shape[-1] ** 0.5
    up = logits[..., 0] > 0
    share, logits[..., 0] = logits.softmax(-1)[..., 0], 1.25 * logits[..., 0]
    assert (logits.softmax(-1)[..., 0] > share)[up].all() and up.any()
    for i, length in enumerate(lengths):
        logits[i, :, :, length:] = -math.inf
    want = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
    assert torch.allclose(seen["out"], want, atol=1e-5)


def test_ren_says_when_it_can_do_nothing(sd):
    with pytest.raises(RuntimeError, match="no attention was seen"), reweighted(sd, torch.tensor([3])):
        pass
    assert hooks(sd) == 0
    with attention(sd) as maps, torch.no_grad(), reweighted(sd, torch.tensor([3]), drop=None):
        sd.conditional(sd.noise(1, 0), sd.sigmas(2)[0], sd.encode(PROMPTS[:1]))  # the begin token alone needs no mask
    assert set(maps) == set(sd.text_attention())


def test_words_are_put_in(sd):
    prompts = ["a cat  on\na ground", "", "one two three"]
    found, same, other = (augmented(prompts, words=["xu", "yo"], seed=s) for s in (1, 1, 2))
    assert found == same != other
    assert augmented(["other", *prompts[1:]], words=["xu", "yo"], seed=1)[1:] == found[1:]
    assert found == ["a cat yo  xu on\na ground", "xu yo", "yo one yo two three"]  # exactly these, in every version
    places = {augmented(["a b"], words=["x"], count=1, seed=s)[0] for s in range(30)}
    assert places == {"x a b", "a x b", "a b x"}  # the ends included
    again = augmented(prompts, kind="repeat", count=3)
    assert again[1] == "" and len(again[2].split(" ")) == 6 and set(again[2].split(" ")) == {"one", "two", "three"}
    numbers = augmented(["a"], kind="numbers", count=4)[0].split(" ")
    assert sorted(map(str.isdigit, numbers)) == [False, True, True, True, True]
    assert all(int(n) < 100_000 for n in numbers if n != "a")
    words = sd.vocabulary()
    assert {"cat", "blue", "ground"} <= set(words) and words == sorted(set(words))
    assert all(len(sd.pipe.tokenizer(w).input_ids) == 3 for w in words)  # one token, between begin and end
    want = augmented(PROMPTS, words=words, count=2, seed=5)
    assert torch.equal(mitigate.random_tokens(sd, PROMPTS, steps=1, seed=5), sd.images(want, steps=1, seed=5))


def test_avoidance_by_hand():
    """Four entries: pushed in part, pushed with the scale at its most, apart by more than the threshold, at it."""
    given, empty = torch.tensor([[1.0, 1.0, 3.0, 2.0]]), torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    avoided, nu = torch.tensor([[1.2, 4.0, 1.0, 1.5]]), torch.tensor([[1.0, 0.0, 2.0, 0.0]])
    gamma, after = avoidance(given, empty, avoided, nu, scale=2.0, threshold=0.5, momentum=0.3, beta=0.4)
    assert gamma[0].tolist() == pytest.approx([0.4 * 0.7 + 0.3, 1 * 3.5, 0.6, 0.0])
    assert after[0].tolist() == pytest.approx([0.4 + 0.6 * 0.58, 0.6 * 3.5, 0.8 + 0.6 * 0.6, 0.0])
    assert [round(config["warmup"] * 50) for config in CONFIGS.values()] == [15, 10, 7, 0]  # steps, in the paper


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_safe_guidance_by_hand(cfg):
    """Slopes at (x, sigma): "opposite" -2 x, "" -x, "memorized" -x / 2 + sigma."""
    toy, numbers = Toy(), {"scale": 0.1, "threshold": 0.5, "momentum": 0.5, "beta": 0.4}
    toy.cfg = cfg
    toy.decode = lambda x: x.mean(1, keepdim=True).expand(-1, 3, -1, -1)  # nothing is cut
    for warmup, acts in ((0.0, (True, True)), (0.5, (False, True)), (1.0, (False, False))):
        x, nu = 1.0, 0.0
        for sigma, on in zip((1.0, 0.5), acts):
            given, empty, avoided = -2 * x, -x, -x / 2 + sigma
            mu = min(1, 0.1 * abs(given - avoided)) if given - avoided < 0.5 else 0
            gamma = mu * (avoided - empty) + 0.5 * nu
            nu = 0.4 * nu + 0.6 * gamma
            x = x - 0.5 * (empty + cfg * (given - empty - gamma * on))
        found = mitigate.safe_guidance(toy, ["opposite"], concept="memorized", steps=2, warmup=warmup, **numbers)
        assert found.flatten().tolist() == pytest.approx([x] * 12, abs=1e-6)
    both = mitigate.safe_guidance(toy, ["opposite"] * 2, concept=["memorized", ""], steps=2, warmup=0, **numbers)
    assert torch.allclose(both[1], toy.images(["opposite"], steps=2)[0], atol=1e-6)  # nothing to go away from
    assert not torch.allclose(both[0], both[1], atol=1e-3)


@pytest.mark.parametrize("family", ["sd", "flux"])
def test_mitigations_work_in_half_precision(family):
    tiny = TINY[family](dtype=torch.bfloat16)
    for name, method in mitigate.MITIGATIONS.items():
        with tiny.guided(3.0):
            assert method(tiny, PROMPTS[:2], steps=1, **STRONG[name]).isfinite().all(), name


BAD = {
    "wen": [{"target": -1}, {"target": math.nan}, {"iterations": -1}, {"iterations": 1.5}, {"lr": -1}],
    "ren": [{"begin": -1}, {"begin": math.nan}, {"drop": "all"}],
    "random_tokens": [{"count": -1}, {"kind": "letters"}, {"words": []}, {"kind": "repeat", "words": ["a"]}],
    "safe_guidance": [CONCEPT | bad for bad in (
        {"config": "mild"}, {"scale": -1}, {"warmup": 2}, {"threshold": math.nan}, {"momentum": -0.1}, {"beta": 1},
        {"concept": ["one", "two", "three"]})],
}  # fmt: skip


@pytest.mark.parametrize("name", mitigate.MITIGATIONS)
def test_refusals(flux, name):
    """Before anything is computed, and with the name of what is wrong."""
    method, extra = mitigate.MITIGATIONS[name], CONCEPT if name == "safe_guidance" else {}
    with count(flux) as forwards:
        for bad in BAD[name]:
            with pytest.raises(ValueError, match=list(bad)[-1]):
                method(flux, PROMPTS[:2], steps=1, **bad)
        for bad in ({"steps": 0}, {"batch": 0}, {"steps": 1.5}):
            with pytest.raises(ValueError, match=list(bad)[0]):
                method(flux, PROMPTS[:2], **(extra | bad))
        for bad, error in (([], ValueError), ("a cat", TypeError), (["a cat", 3], TypeError)):
            with pytest.raises(error, match="prompts"):
                method(flux, bad, **extra)
    assert forwards[0] == 0
