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
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def _means(values: np.ndarray, n: int, rng: np.random.Generator, crossed: bool) -> np.ndarray:
    """``n`` means of ``values`` [rows, prompts], prompts and rows resampled."""
    rows, prompts = values.shape
    columns = rng.integers(prompts, size=(n, 1, prompts))
    return values[rng.integers(rows, size=(n, rows, 1 if crossed else prompts)), columns].mean((1, 2))


def _table(values: np.ndarray, who: str) -> np.ndarray:
    values = np.atleast_2d(np.asarray(values, dtype=float))
    if values.size == 0:
        raise ValueError(f"{who}: no values")
    return values


def bootstrap(
    values: np.ndarray, *, crossed: bool = False, share: bool = True, n: int = 2000, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Mean of ``values`` [prompts] or [rows, prompts] with a percentile interval.

    Prompts are resampled, and within each prompt its rows: noise seeds, which no two prompts share. ``crossed``: rows
    are common to all prompts (masks, say) and are resampled whole. Either way pictures of one prompt do not count as
    independent. Where every value is 0, or every value is 1, resampling sees no variation; the interval of a ``share``
    is then the exact one (Clopper and Pearson) for as many prompts.
    """
    values = _table(values, "bootstrap")
    tail = (1 - level) / 2
    if share and values.min() == values.max() and values.flat[0] in (0, 1):
        every, bound = float(values.flat[0]), tail ** (1 / values.shape[1])
        return Estimate(every, bound if every else 0.0, 1.0 if every else 1 - bound)
    low, high = np.quantile(_means(values, n, np.random.default_rng(seed), crossed), [tail, 1 - tail])
    return Estimate(float(values.mean()), float(low), float(high))


def bootstrap_ratio(
    over: np.ndarray, under: np.ndarray, *, crossed: bool = False, n: int = 2000, seed: int = 0
) -> Estimate:
    """Ratio of two means with a 95 % percentile interval; each as in `bootstrap`, resampled apart."""
    over, under = _table(over, "bootstrap_ratio"), _table(under, "bootstrap_ratio")
    rng = np.random.default_rng(seed)
    draws = _means(over, n, rng, crossed) / _means(under, n, rng, crossed)
    return Estimate(float(over.mean() / under.mean()), *(float(q) for q in np.quantile(draws, [0.025, 0.975])))


def difference(a: Estimate, b: Estimate) -> Estimate:
    """``a`` less ``b``, of different prompts, with an interval made of their two (Newcombe, 1998): it has a width even where
    both are 0 or 1."""
    value = a.mean - b.mean
    low = value - np.hypot(a.mean - a.low, b.high - b.mean)
    return Estimate(value, float(low), float(value + np.hypot(a.high - a.mean, b.mean - b.low)))


def paired(a: np.ndarray, b: np.ndarray, **options) -> Estimate:
    """Mean of ``a`` less ``b``, two tables [prompts] or [rows, prompts] of verdicts on the same prompts; see `bootstrap`.

    Where they differ alike everywhere (not at all, say), resampling sees no variation; the interval is then as wide as the
    largest share of prompts on which they may yet do otherwise.
    """
    delta = _table(a, "paired") - _table(b, "paired")
    if delta.min() < delta.max():
        return bootstrap(delta, share=False, **options)
    value, bound = float(delta.flat[0]), bootstrap(np.zeros(delta.shape)).high
    return Estimate(value, max(-1.0, value - bound), min(1.0, value + bound))


def corrected(said: np.ndarray, on_yes: np.ndarray, on_no: np.ndarray, *, n: int = 2000, seed: int = 0) -> Estimate:
    """A rate that an imperfect judge measured, corrected for its errors (Rogan and Gladen, 1978), with a 95 % interval that
    carries both the sample's and the judge's uncertainty. (Where all verdicts are alike, from Jeffreys' posterior.)

    Args:
        said: its verdicts, bool [prompts] or [rows, prompts]. on_yes, on_no: its verdicts on cases whose truth is yes,
            and no, bool [cases].
    """
    tables = [_table(t, "corrected") for t in (said, on_yes, on_no)]
    if tables[1].mean() <= tables[2].mean():
        raise ValueError("corrected: the judge says yes no more often where the truth is yes; it measures nothing")
    rng = np.random.default_rng(seed)

    def draw(table: np.ndarray) -> np.ndarray:
        if table.min() < table.max():
            return _means(table, n, rng, False)
        yes, cases = table.flat[0] * table.shape[1], table.shape[1]  # all alike: resampling would see no uncertainty
        return rng.beta(yes + 0.5, cases - yes + 0.5, n)

    rate, yes, no = map(draw, tables)
    draws = np.clip((rate - no) / np.maximum(yes - no, 1e-9), 0, 1)
    value = (tables[0].mean() - tables[2].mean()) / (tables[1].mean() - tables[2].mean())
    return Estimate(float(np.clip(value, 0, 1)), *(float(q) for q in np.quantile(draws, [0.025, 0.975])))


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a positive scores above a negative, ties counted half (Mann and Whitney)."""
    p, q = np.asarray(positive, dtype=float).ravel(), np.asarray(negative, dtype=float).ravel()
    if not len(p) or not len(q):
        raise ValueError("auroc: needs scores of both classes")
    if np.isnan(p).any() or np.isnan(q).any():
        raise ValueError("auroc: a score is not a number")
    return float((p[:, None] > q).mean() + 0.5 * (p[:, None] == q).mean())


def bootstrap_auroc(positive: np.ndarray, negative: np.ndarray, *, n: int = 1000, seed: int = 0) -> Estimate:
    """AUROC with a percentile interval over both classes' prompts.

    Where the classes separate completely, resampling sees no variation; the lower end is then that of a share of 1 among
    as many prompts as the smaller class has.
    """
    if auroc(positive, negative) == 1:
        return Estimate(1.0, 0.025 ** (1 / min(len(positive), len(negative))), 1.0)
    rng = np.random.default_rng(seed)
    p, q = np.asarray(positive), np.asarray(negative)
    draws = [auroc(rng.choice(p, len(p)), rng.choice(q, len(q))) for _ in range(n)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(auroc(p, q), float(low), float(high))
