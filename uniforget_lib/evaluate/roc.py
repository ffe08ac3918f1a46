"""Thresholds as decisions: the ROC with its uncertainty, and the confusion table at a threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .stats import Estimate


def _classes(positive, negative, who: str) -> tuple[np.ndarray, np.ndarray]:
    p, q = (np.asarray(x, dtype=float).ravel() for x in (positive, negative))
    if not len(p) or not len(q):
        raise ValueError(f"{who}: needs scores of both classes")
    if np.isnan(p).any() or np.isnan(q).any():
        raise ValueError(f"{who}: a score is not a number")
    return p, q


def roc(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """False and true positive rates of "score >= threshold", and the thresholds, strictest first (infinity: (0, 0))."""
    p, q = _classes(positive, negative, "roc")
    limits = np.concatenate([[np.inf], np.unique(np.concatenate([p, q]))[::-1]])
    return (q[None] >= limits[:, None]).mean(1), (p[None] >= limits[:, None]).mean(1), limits


def tpr_at(positive: np.ndarray, negative: np.ndarray, fpr: float = 0.01) -> tuple[float, float]:
    """(largest true positive rate with a false positive rate of *at most* ``fpr``, its threshold).

    Published code often takes the point of the ROC *nearest* to 1 %, which may lie above it. With fewer than 1 / fpr
    negatives, none of them may be flagged. The threshold is infinite when that flags no positive either.
    """
    if not 0 <= fpr <= 1:
        raise ValueError(f"fpr={fpr}: needs a rate in [0, 1]")
    false, true, limits = roc(positive, negative)
    best = np.flatnonzero(false <= fpr)[-1]  # both rates grow along the curve
    return float(true[best]), float(limits[best]) if true[best] else np.inf


def _resample(positive: np.ndarray, negative: np.ndarray, n: int, seed: int):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        yield rng.choice(positive, len(positive)), rng.choice(negative, len(negative))


def bootstrap_tpr(
    positive: np.ndarray, negative: np.ndarray, fpr: float = 0.01, *, n: int = 1000, seed: int = 0
) -> Estimate:
    """`tpr_at` with a 95 % percentile interval over both classes' prompts; the threshold is set anew in each draw.

    With few negatives the highest of a draw is often below the highest of all, never above it: the interval leans up.
    Where the classes separate completely, its lower end is that of a share of 1 among as many positives.
    """
    p, q = _classes(positive, negative, "bootstrap_tpr")
    if p.min() > q.max():
        return Estimate(1.0, 0.025 ** (1 / len(p)), 1.0)
    draws = [tpr_at(a, b, fpr)[0] for a, b in _resample(p, q, n, seed)]
    return Estimate(tpr_at(p, q, fpr)[0], *(float(x) for x in np.quantile(draws, [0.025, 0.975])))


def roc_band(positive: np.ndarray, negative: np.ndarray, *, points: int = 101, n: int = 500, seed: int = 0) -> dict:
    """The ROC on a grid of false positive rates, denser at its left end, with a pointwise 95 % band: fpr, tpr, low, high,
    each [points]."""
    p, q = _classes(positive, negative, "roc_band")
    grid = np.linspace(0, 1, points) ** 2

    def curve(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        false, true, _ = roc(a, b)
        return true[np.searchsorted(false, grid, side="right") - 1]

    low, high = np.quantile([curve(a, b) for a, b in _resample(p, q, n, seed)], [0.025, 0.975], axis=0)
    return {"fpr": grid, "tpr": curve(p, q), "low": low, "high": high}


@dataclass(frozen=True)
class Confusion:
    """Counts at a threshold: ``hits`` and ``misses`` of the positives, ``alarms`` and ``passes`` of the negatives."""

    hits: int
    misses: int
    alarms: int
    passes: int


def confusion(positive: np.ndarray, negative: np.ndarray, limit: float) -> Confusion:
    """Counts of "score >= limit"."""
    p, q = _classes(positive, negative, "confusion")
    hits, alarms = int((p >= limit).sum()), int((q >= limit).sum())
    return Confusion(hits, len(p) - hits, alarms, len(q) - alarms)


def iou(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union of bool masks [n, H, W]: [n]; 1 where both are empty."""
    found, truth = np.asarray(found, dtype=bool), np.asarray(truth, dtype=bool)
    if found.shape != truth.shape:
        raise ValueError(f"masks {list(found.shape)} and truth {list(truth.shape)} differ in shape")
    both, either = ((op(found, truth)).sum((1, 2)) for op in (np.logical_and, np.logical_or))
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def above(maps: np.ndarray, cut: float) -> np.ndarray:
    """Where each map [n, H, W], at least 0, is at least ``cut`` of its own maximum: bool [n, H, W]."""
    maps = np.asarray(maps, dtype=float)
    if (maps < 0).any():
        raise ValueError(f"maps go down to {maps.min():.3g}: needs values of at least 0")
    top = maps.max((1, 2), keepdims=True)
    return (maps >= cut * top) & (top > 0)


def best_cut(maps: np.ndarray, truth: np.ndarray) -> float:
    """The cut, of 0, .02, ... 1, at which `above` has the largest mean `iou` with ``truth``, bool [n, H, W]; the lowest of equals."""
    cuts = np.linspace(0, 1, 51)
    return float(cuts[int(np.argmax([iou(above(maps, cut), truth).mean() for cut in cuts]))])
