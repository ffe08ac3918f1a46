"""Do two sets of vectors come from one distribution? A distance, and how often chance makes it as large."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TwoSample:
    """A squared distance between two samples, and the share of random relabellings that reach it (the p-value)."""

    distance: float
    p: float

    def __str__(self) -> str:
        return f"{self.distance:.3f} (p {'<' if self.p < 0.001 else '='} {max(self.p, 0.001):.3f})"


def mmd(a: np.ndarray, b: np.ndarray, *, paired: bool = False, permutations: int = 999, seed: int = 0) -> TwoSample:
    """Squared maximum mean discrepancy (Gretton et al., JMLR 2012, eq. 3) with a Gaussian kernel of the median distance.

    a: [n, d], b: [m, d], two vectors each at least. 0 on average for two samples of one distribution; it may be below.
    The p-value counts the observed labelling among the permutations, so it is never 0. Rows must be independent: pictures
    of one prompt are not. ``paired``: row k of ``a`` and of ``b`` share a prompt, so relabelling only swaps the two, and
    they are not compared with each other.
    """
    a, b = (np.asarray(x, dtype=float) for x in (a, b))
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"a {list(a.shape)} and b {list(b.shape)}: need two matrices with as many columns")
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a has {len(a)} rows and b {len(b)}: need two each at least")
    if paired and len(a) != len(b):
        raise ValueError(f"paired=True: a has {len(a)} rows and b {len(b)}; pairs need as many")
    both = np.concatenate([a, b])
    square = (both**2).sum(1)
    distance = np.maximum(square[:, None] + square - 2 * both @ both.T, 0)
    median = np.median(distance[np.triu_indices(len(both), 1)])
    kernel = np.exp(-distance / median) if median > 0 else np.ones_like(distance)
    np.fill_diagonal(kernel, 0)
    n, m = len(a), len(b)
    pairs = n * m
    if paired:
        kernel[np.arange(n), n + np.arange(n)] = kernel[n + np.arange(n), np.arange(n)] = 0
        pairs = n * (n - 1)

    def value(first: np.ndarray) -> float:
        inside, outside = kernel[first][:, first].sum(), kernel[~first][:, ~first].sum()
        return inside / (n * (n - 1)) + outside / (m * (m - 1)) - 2 * kernel[first][:, ~first].sum() / pairs

    def relabelled() -> np.ndarray:
        if not paired:
            return rng.permutation(labels)
        swap = rng.random(n) < 0.5
        return np.concatenate([~swap, swap])

    labels, rng = np.arange(n + m) < n, np.random.default_rng(seed)
    observed = value(labels)
    reached = sum(value(relabelled()) >= observed for _ in range(permutations))
    return TwoSample(float(observed), (1 + reached) / (1 + permutations))
