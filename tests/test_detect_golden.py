"""Detectors: golden numbers on a model whose answers are known by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from uniforget_lib import detect, evaluate
from uniforget_lib.models.base import Cond, ModelAdapter

SLOPES = {"": (-1.0, 0.0), "memorized": (-0.5, 1.0), "opposite": (-2.0, 0.0)}  # dx/dsigma = a x + b sigma


LN2 = math.log(2)


class ToyAttention(nn.Module):
    def forward(self, x, encoder_hidden_states, weights):
        """Weights [image, text], as softmax of the product of unit queries and their logarithms."""
        query = torch.eye(len(weights)).expand(len(x), 1, -1, -1)
        key = weights.log().T.expand(len(x), 1, -1, -1)
        F.scaled_dot_product_attention(query, key, key, scale=1.0)


class ToyDenoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn2 = ToyAttention()
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def forward(self, hidden_states, sigma, cond, weights):
        self.attn2(hidden_states, encoder_hidden_states=torch.zeros(1, 4, 1), weights=weights(float(sigma)))
        a, b = cond.embeds[:, :, None, None, None].unbind(1)
        return a * hidden_states + b * sigma


class Toy(ModelAdapter):
    """Latents [n, 2, 2, 2], all of them 1 + seed at the start; four image tokens, four of text, the third the end."""

    family = "toy"
    resolution = 2

    def __init__(self, weights=lambda sigma: torch.full((4, 4), 0.25)):
        super().__init__(SimpleNamespace(components={}), ToyDenoiser(), cfg=1.0)
        self.weights = weights

    def all_sites(self):
        return []

    max_tokens = 4

    def encode_checked(self, prompts):
        return Cond(torch.tensor([SLOPES[p] for p in prompts]))

    def noise(self, n, seed):
        return torch.full((n, 2, 2, 2), 1.0 + seed)

    def sigmas(self, steps):
        return torch.linspace(1, 0, steps + 1)

    def conditional(self, x, sigma, cond):
        return self.denoiser(hidden_states=x, sigma=sigma, cond=cond, weights=self.weights)

    def decode(self, x):
        return x.mean(1, keepdim=True).expand(-1, 3, -1, -1).clamp(0, 1)

    def grid(self, x):
        return x

    def text_attention(self):
        return ["attn2"]

    def text_layers(self):
        return {}

    def latents_of(self, images):
        return images

    def token_counts(self, prompts):
        return torch.tensor([3] * len(prompts))

    def noise_prediction(self, x, sigma, slope):
        return slope  # as in Stable Diffusion


PEAKED = torch.tensor([0.5, 0.25, 0.125, 0.125]).expand(4, 4)


BRIGHT = torch.tensor([[0.1, 0.1, 0.5, 0.3], [0.4, 0.4, 0.1, 0.1], [0.4, 0.4, 0.1, 0.1], [0.4, 0.4, 0.1, 0.1]])


def risk(name, toy=None, **options):
    found = detect.DETECTORS[name](toy or Toy(), ["memorized"], **options)
    assert found.shape == (1,)
    return float(found)


def test_gap_by_hand():
    assert risk("wen") == pytest.approx(1.5)
    assert risk("wen", seeds=(0, 1)) == pytest.approx((1.5 + 2) / 2)
    x = 1 - 0.5 * 0.5  # after the first of two steps, at sigma = .5
    curve = detect.gap_curve(Toy(), ["memorized"], steps=2, sampling_steps=2)[:, 0]
    assert curve == pytest.approx([1.5, 0.5 * x + 0.5])
    guided = Toy()
    guided.cfg = 3.0
    x = 1 - 0.5 * (-1 + 3 * 1.5)  # guidance moves the state, not the gap
    assert risk("wen", guided, steps=2, sampling_steps=2) == pytest.approx((1.5 + 0.5 * x + 0.5) / 2)


def test_attention_entropy_by_hand():
    assert risk("ren_e", Toy(lambda sigma: PEAKED)) == pytest.approx(1.75 * LN2)
    assert risk("ren_e") == pytest.approx(2 * LN2)  # even attention
    changing = Toy(lambda sigma: PEAKED if sigma < 1 else torch.full((4, 4), 0.25))
    # end token and padding: .75 ln 2 at the end, ln 2 at the start
    assert risk("ren_d", changing, sampling_steps=10) == pytest.approx((1.75 + 0.75 - 1) * LN2, rel=1e-5)


def test_bright_ending_by_hand():
    want = 1.5 * math.sqrt(2 * (0.5**2 + 3 * 0.1**2)) / 0.2 / math.sqrt(8)
    assert risk("bright_ending", Toy(lambda sigma: BRIGHT), sampling_steps=1) == pytest.approx(want)
    found = detect.ending_map(Toy(lambda sigma: BRIGHT), ["memorized"], sampling_steps=1)
    assert torch.allclose(found, torch.tensor([[[0.5, 0.1], [0.1, 0.1]]]))


def test_sharpness_by_hand():
    assert risk("jeon") == pytest.approx(0.5 * 1.5)  # the gap's Jacobian is .5 times the identity
    found = detect.curvature_map(Toy(), ["memorized"], sampling_steps=1, probes=3)
    assert torch.allclose(found, torch.full((1, 2, 2), 2 * 0.5))  # its diagonal, over two channels
    assert detect.curvature_map(Toy(), ["opposite"], sampling_steps=1).abs().max() == 0  # less peaked: not memorized
    found = detect.difference_map(Toy(), ["memorized"], sampling_steps=1)
    assert torch.allclose(found, torch.full((1, 2, 2), 2 * 1.5**2))


class OneChannel(Toy):
    """Noise in the first channel only, and a denoiser that divides by 1 + sigma."""

    def noise(self, n, seed):
        return torch.cat([torch.ones(n, 1, 2, 2), torch.zeros(n, 1, 2, 2)], dim=1)

    def input_scale(self, sigma):
        return 1 + sigma


def test_anisotropy_by_hand():
    size = math.sqrt(4 * (1.5**2 + 1**2))  # .5 x + 1, in both channels
    late, x = 0.04, 1.04 / 2  # sigma of step 48 of 50, and the noise there
    cosine = -(0.5 * x + late) / math.hypot(0.5 * x + late, late)  # of (-x, 0) and (.5 x + sigma, sigma)
    assert risk("asthana", OneChannel()) == pytest.approx(size + 2 * cosine)
    assert risk("asthana", OneChannel(), gamma=(0.5, -1)) == pytest.approx(0.5 * size - cosine)


def test_extraction_by_hand():
    assert risk("webster") == pytest.approx(0.5**2)
    assert risk("webster", seeds=(0, 1)) == pytest.approx((0.5**2 + 0) / 2)
    assert risk("carlini", steps=1, seeds=(0, 1), tiles=2) == pytest.approx(-0.5)  # 1 - .5, and 2 - 0 clamped to 1


def test_edges_by_hand():
    step = torch.cat([torch.zeros(1, 3, 6, 3), torch.ones(1, 3, 6, 3)], dim=3)
    want = torch.zeros(1, 6, 6)
    want[:, :, 2:4] = 3 * 16  # Sobel gives 4 at both sides of a step of 1, and 4 times that over equal colours
    assert torch.allclose(detect.edges(step), want)
    red = step * torch.tensor([1.0, 0, 0])[None, :, None, None]
    assert torch.allclose(detect.edges(red)[0, 2, 2], torch.tensor(4.0 * (3 + 1 + 0)))  # scipy's smoothing, reflected
    toy, drawn = Toy(), iter([step, step, 1 - step, torch.zeros_like(step), torch.zeros_like(step)])
    toy.decode = lambda x: next(drawn)
    assert risk("webster_edges", toy, seeds=range(5)) == pytest.approx(2 / 6)  # an edge in 3 of 5 pictures


def test_confusion_and_overlap_by_hand():
    assert evaluate.confusion([1, 2, 3], [0, 2], 2) == evaluate.Confusion(hits=2, misses=1, alarms=1, passes=1)
    found, truth = np.zeros((3, 2, 2), bool), np.zeros((3, 2, 2), bool)
    found[0, 0], truth[0, :, 0], truth[1, 0, 0] = True, True, True
    assert evaluate.iou(found, truth).tolist() == [pytest.approx(1 / 3), 0, 1]


def test_the_cut_of_a_map_by_hand():
    maps = np.array([[[0.2, 1.0], [0.5, 0.0]], [[0.0, 2.0], [1.1, 1.9]]])
    truth = np.array([[[False, True], [True, False]], [[False, True], [True, True]]])
    cut = evaluate.best_cut(maps, truth)
    assert cut == pytest.approx(0.22)  # the lowest that drops .2 of 1 and keeps .5 of 1 and 1.1 of 2
    assert (evaluate.above(maps, cut) == truth).all() and evaluate.above(maps, 0).all()
    assert not evaluate.above(np.zeros((1, 2, 2)), 0.5).any()
    with pytest.raises(ValueError, match="-1"):
        evaluate.above(-np.ones((1, 2, 2)), 0.5)
