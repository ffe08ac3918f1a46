"""Means with bootstrap intervals over prompts and seeds, and the area under the ROC curve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def _means(values: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """``n`` means of ``values`` [seeds, prompts], seeds and prompts resampled."""
    seeds, prompts = values.shape
    draws = ((rng.integers(seeds, size=seeds), rng.integers(prompts, size=prompts)) for _ in range(n))
    return np.array([values[np.ix_(*draw)].mean() for draw in draws])


def _table(values: np.ndarray, who: str) -> np.ndarray:
    values = np.atleast_2d(np.asarray(values, dtype=float))
    if values.size == 0:
        raise ValueError(f"{who}: no values")
    return values


def bootstrap(values: np.ndarray, *, n: int = 2000, seed: int = 0, level: float = 0.95) -> Estimate:
    """Mean of ``values`` [prompts] or [seeds, prompts] with a percentile interval.

    Prompts and seeds are resampled separately (a crossed design: every prompt is drawn with every seed), so that
    pictures of one prompt do not count as independent.
    """
    values = _table(values, "bootstrap")
    low, high = np.quantile(_means(values, n, np.random.default_rng(seed)), [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(values.mean()), float(low), float(high))


def bootstrap_ratio(over: np.ndarray, under: np.ndarray, *, n: int = 2000, seed: int = 0) -> Estimate:
    """Ratio of two means with a 95 % percentile interval; both [prompts] or [seeds, prompts], resampled apart."""
    over, under = _table(over, "bootstrap_ratio"), _table(under, "bootstrap_ratio")
    rng = np.random.default_rng(seed)
    low, high = np.quantile(_means(over, n, rng) / _means(under, n, rng), [0.025, 0.975])
    return Estimate(float(over.mean() / under.mean()), float(low), float(high))


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a positive scores above a negative, ties counted half (Mann and Whitney)."""
    p, q = np.asarray(positive, dtype=float).ravel(), np.asarray(negative, dtype=float).ravel()
    if not len(p) or not len(q):
        raise ValueError("auroc: needs scores of both classes")
    return float((p[:, None] > q).mean() + 0.5 * (p[:, None] == q).mean())


def bootstrap_auroc(positive: np.ndarray, negative: np.ndarray, *, n: int = 1000, seed: int = 0) -> Estimate:
    """AUROC with a percentile interval over both classes' prompts."""
    rng = np.random.default_rng(seed)
    p, q = np.asarray(positive), np.asarray(negative)
    draws = [auroc(rng.choice(p, len(p)), rng.choice(q, len(q))) for _ in range(n)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(auroc(p, q), float(low), float(high))
