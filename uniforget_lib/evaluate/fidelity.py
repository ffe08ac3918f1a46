"""How good is a set of pictures as a whole? Distances of distributions, precision and recall, on a judge's features.

Inception features mean nothing for pictures of 64 px of this world, so the distances are taken on features [n, d] of the
testbed's own judge (`Judge.embed`). Their values compare models of this testbed with each other, and with the *floor*
that two sets of real pictures have; they compare with no number of any paper.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from .stats import Estimate


class _Given(nn.Module):
    """Stands in for a network: the pictures are features already."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.num_features = dim

    def forward(self, x: Tensor) -> Tensor:
        return x


def _check(drawn: Tensor, real: Tensor, least: int) -> None:
    if drawn.ndim != 2 or real.ndim != 2 or drawn.shape[1] != real.shape[1]:
        raise ValueError(f"features {list(drawn.shape)} and {list(real.shape)}: needs [n, d] and [m, d]")
    if min(len(drawn), len(real)) < least:
        raise ValueError(f"{len(drawn)} and {len(real)} pictures are too few: give at least {least} of each")


def frechet(drawn: Tensor, real: Tensor) -> float:
    """Fréchet distance of two sets of features [n, d], [m, d] (Heusel et al., 2017), by torchmetrics; 0: the same
    mean and covariance. It is biased upwards for few pictures: compare it at equal numbers."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    _check(drawn, real, 2)
    metric = FrechetInceptionDistance(feature=_Given(drawn.shape[1]))
    metric.update(real.float(), real=True)
    metric.update(drawn.float(), real=False)
    return float(metric.compute())


def kernel(drawn: Tensor, real: Tensor, seed: int = 0) -> float:
    """Kernel distance (Bińkowski et al., 2018), by torchmetrics: the squared MMD with a cubic kernel, unbiased, so that it
    may be below 0."""
    from torchmetrics.image.kid import KernelInceptionDistance

    _check(drawn, real, 4)
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # about the memory that its features take
        torch.manual_seed(seed)
        size = min(len(drawn), len(real)) * 3 // 4
        metric = KernelInceptionDistance(feature=_Given(drawn.shape[1]), subsets=20, subset_size=size)
        metric.update(real.float(), real=True)
        metric.update(drawn.float(), real=False)
        return float(metric.compute()[0])


def precision(drawn: Tensor, real: Tensor, k: int = 3) -> float:
    """Share of drawn pictures within the manifold of real ones: closer to some real picture than that one's k-th real
    neighbour (Kynkäänniemi et al., 2019). ``precision(real, drawn)`` is their *recall*."""
    _check(drawn, real, k + 1)
    radius = torch.cdist(real, real).kthvalue(k + 1, dim=1).values  # the nearest one is the picture itself
    return float((torch.cdist(drawn, real) <= radius).any(1).float().mean())


def recall(drawn: Tensor, real: Tensor, k: int = 3) -> float:
    """Share of real pictures within the manifold of drawn ones; see `precision`."""
    return precision(real, drawn, k)


def diversity(features: Tensor) -> np.ndarray:
    """Mean distance between the drawings of one prompt: features [seeds, prompts, d] -> [prompts]; 0: always the same."""
    if features.ndim != 3 or len(features) < 2:
        raise ValueError(f"features {list(features.shape)}: needs [seeds, prompts, d] with two seeds or more")
    pairs = torch.cdist(features.transpose(0, 1), features.transpose(0, 1))  # [prompts, seeds, seeds]
    return (pairs.sum((1, 2)) / (len(features) * (len(features) - 1))).numpy()


def with_interval(measure: Callable[[Tensor, Tensor], float], drawn: Tensor, real: Tensor, *, n: int = 40,
                  seed: int = 0) -> Estimate:  # fmt: skip
    """``measure(drawn, real)`` with a 95 % bootstrap interval over pictures of both sets.

    Resampled sets repeat pictures, which biases distances upwards; so the interval is the basic one, the deviations of
    the resampled values from their mean turned round the value itself.
    """
    rng, value = np.random.default_rng(seed), measure(drawn, real)
    again = np.array([measure(*(x[rng.integers(len(x), size=len(x))] for x in (drawn, real))) for _ in range(n)])
    low, high = np.quantile(again - again.mean(), [0.025, 0.975])
    return Estimate(value, value - high, value - low)
