"""Attribution: how much does each unit do for the pull of memorized prompts, to first order or along a path?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..hooks import masked
from ..masks import Score
from ..models.base import ModelAdapter
from ..sampler import rollout
from ._observe import check_contrast


def pull(
    adapter: ModelAdapter, prompts: list[str], gates: dict[str, Tensor], *, steps: int, seed: int, batch: int
) -> tuple[float, dict[str, Tensor]]:
    """Mean squared distance of the gated model's images to what the plain model draws without the prompt from the same
    noise, and its gradient in the gates. Latents, ``steps`` Euler steps, no guidance."""
    leaves = {name: gate.detach().clone().requires_grad_() for name, gate in gates.items()}
    noise, cond, sigmas, total = adapter.noise(len(prompts), seed), adapter.encode(prompts), adapter.sigmas(steps), 0.0
    for i in range(0, len(prompts), batch):
        x, c = noise[i : i + batch], cond[i : i + batch]
        with torch.no_grad():
            away = rollout(adapter.conditional, x, sigmas, adapter.empty(len(x)))
        with torch.enable_grad(), masked(adapter, leaves):
            value = (rollout(adapter.conditional, x, sigmas, c) - away).float().pow(2).flatten(1).mean(1).sum()
            (value / len(prompts)).backward()
        total += float(value.detach()) / len(prompts)
    return total, {name: leaf.grad.detach().cpu() for name, leaf in leaves.items()}


def integrated(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    base: Sequence[str],
    *,
    kinds: Sequence[str] = ("ffn", "norm"),
    points: int = 8,
    steps: int = 4,
    seed: int = 0,
    batch: int = 16,
) -> Score:
    """Integrated gradients (Sundararajan et al., ICML 2017) of the `pull` in the gates, from all closed to all open.

    The attributions of all units add up to the difference that opening them makes. The score is a unit's share of the
    pull of ``prompts`` minus its share of that of ``base``, each relative to the whole pull.
    """
    if points < 1:
        raise ValueError(f"points={points}: needs at least one")
    path = [(k + 0.5) / points for k in range(points)]
    return _score(adapter, prompts, base, kinds, path, "integrated", steps=steps, seed=seed, batch=batch)


def gradient(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    base: Sequence[str],
    *,
    kinds: Sequence[str] = ("ffn", "norm"),
    steps: int = 4,
    seed: int = 0,
    batch: int = 16,
) -> Score:
    """Gradient times gate of the `pull` of the whole model: how much removing a unit would lower it, to first order.

    For ``prompts`` minus for ``base``, each relative to its pull.
    """
    return _score(adapter, prompts, base, kinds, [1.0], "gradient", steps=steps, seed=seed, batch=batch)


def attributions(adapter: ModelAdapter, prompts: list[str], kinds: Sequence[str], path: Sequence[float],
                 **options) -> tuple[float, dict[str, Tensor]]:  # fmt: skip
    """Pull of the whole model, and the mean gradient over the points of ``path``: site name -> [units]."""
    sites, total = adapter.sites(kinds), {}
    ones = {s.name: torch.ones(s.units, device=adapter.device) for s in sites}
    for at in path:
        value, slopes = pull(adapter, prompts, {n: at * g for n, g in ones.items()}, **options)
        total = {n: total.get(n, 0) + slope / len(path) for n, slope in slopes.items()}
    whole = value if path[-1] == 1 else pull(adapter, prompts, ones, **options)[0]
    return whole, total


def _score(adapter, prompts, base, kinds, path, method: str, **options) -> Score:
    prompts, base = check_contrast(prompts, base)
    (whole, mine), (other_whole, other) = (attributions(adapter, p, kinds, path, **options) for p in (prompts, base))
    if not min(whole, other_whole) > 0:
        raise ValueError("a prompt list pulls nowhere: are its prompts all empty?")
    values = {n: mine[n] / whole - other[n] / other_whole for n in mine}
    rounds = len(path) + (path[-1] != 1)
    cost = 4 * options["steps"] * rounds * (len(prompts) + len(base))  # empty, forward, and a backward of two
    return Score(values, method, adapter.fingerprint, cost)
