"""Contrasts of activations: what memorized prompts switch on and other prompts do not. They must be told both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..masks import Score
from ..models.base import ModelAdapter
from ._observe import check_contrast, observe


def activation(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    base: Sequence[str],
    *,
    kinds: Sequence[str] = ("ffn",),
    sampling_steps: int = 4,
    seed: int = 0,
    batch: int = 64,
) -> Score:
    """Difference of the root mean square activations under ``prompts`` and ``base``, over their sum: in [-1, 1].

    The simplest contrast there is, over a whole sampling without guidance.
    """
    prompts, base = check_contrast(prompts, base)
    sites, found, cost = adapter.sites(kinds), [], 0
    for given in (prompts, base):
        power = {s.name: torch.zeros(s.units, dtype=torch.float64) for s in sites}
        count = dict.fromkeys(power, 0)

        def see(step: int, site, x: Tensor, power=power, count=count) -> None:
            x = x.float().reshape(-1, site.units, site.width)
            power[site.name] += x.pow(2).mean(-1).sum(0).double().cpu()
            count[site.name] += len(x)

        cost += observe(adapter, given, sites, see, steps=sampling_steps, sampling_steps=sampling_steps, seed=seed,
                        batch=batch)  # fmt: skip
        found.append({name: (power[name] / count[name]).sqrt() for name in power})
    values = {n: ((a - (b := found[1][n])) / (a + b).clamp(min=1e-12)).float() for n, a in found[0].items()}
    return Score(values, "activation", adapter.fingerprint, cost)


def chavhan_weights(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    base: Sequence[str] | None = None,
    *,
    share: float = 0.01,
    sampling_steps: int = 10,
    steps: int = 2,
    seed: int = 0,
    batch: int = 64,
) -> tuple[dict[str, Tensor], int]:
    """The *weights* that Chavhan et al. (2024, arXiv 2406.18566) prune: {site: bool [outputs, units]}, and its cost.

    For every step and feed-forward layer, importance is |W| times the norm of the activations (Wanda), which are brought
    to unit length for every token first. A weight is chosen if it is in the top ``share`` of its row under ``prompts``
    *and* more important there than under ``base``: by default the empty prompt, as often as there are prompts, from the
    same noises. The union over the first ``steps`` of the sampling is taken; the authors take 10 of 50. They observe a
    sampling with guidance, and so the empty prompt's activations too; here there is no guidance.

    Raises ValueError and TypeError for bad lists of prompts, and ValueError for a ``share`` outside (0, 1).
    """
    prompts, base = check_contrast(prompts, [""] * len(prompts) if base is None else base)
    if not 0 < share < 1:
        raise ValueError(f"share={share}: needs a share of each row, between 0 and 1")
    sites, norms, cost = adapter.sites(("ffn",)), [], 0
    for given in (prompts, base):
        power: dict[tuple[int, str], Tensor] = {}

        def see(step: int, site, x: Tensor, power=power) -> None:
            x = F.normalize(x.float().reshape(-1, site.units), dim=1).pow(2).sum(0).cpu()
            power[step, site.name] = power.get((step, site.name), 0) + x

        cost += observe(adapter, given, sites, see, steps=steps, sampling_steps=sampling_steps, seed=seed, batch=batch)
        norms.append({key: (value / len(given)).sqrt() for key, value in power.items()})
    chosen = {}
    for site in sites:
        (ref,) = site.readers
        weight = adapter.denoiser.get_submodule(ref.linear).weight.detach().float().cpu()[:, ref.start : ref.stop].abs()
        mine = torch.zeros(weight.shape, dtype=torch.bool)
        for step in range(steps):
            importance, other = (weight * n[step, site.name] for n in norms)
            top = importance.topk(max(1, round(share * site.units)), dim=1).indices
            mine |= torch.zeros_like(mine).scatter(1, top, True) & (importance > other)
        chosen[site.name] = mine
    return chosen, cost


def chavhan(adapter: ModelAdapter, prompts: Sequence[str], base: Sequence[str] | None = None, **options) -> Score:
    """`chavhan_weights` by unit: the share of a unit's outgoing weights that the method would prune, in [0, 1].

    The paper prunes single weights; a mask of units stands beside the other locators at equal sparsity. Most units have
    no chosen weight and score 0, so a ratio beyond the others' share says nothing (`Score.mask` warns). Options: see
    `chavhan_weights`.
    """
    chosen, cost = chavhan_weights(adapter, prompts, base, **options)
    return Score({name: w.float().mean(0) for name, w in chosen.items()}, "chavhan", adapter.fingerprint, cost)
