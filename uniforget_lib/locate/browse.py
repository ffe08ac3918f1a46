"""A neuron browser: what does a unit answer to?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.base import ModelAdapter, check_prompts
from ._observe import observe


def activity(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    *,
    kinds: Sequence[str] = ("ffn",),
    sampling_steps: int = 4,
    seed: int = 0,
    batch: int = 64,
) -> dict[str, Tensor]:
    """Root mean square activation of every unit under every prompt, over tokens and a sampling without guidance.

    Returns site name -> [prompts, units]. The rows of a unit that differ most from the others tell what it answers to:
    ``activity[name][:, unit].topk(8)``.
    """
    prompts = check_prompts(prompts)
    sites = adapter.sites(kinds)
    power = {s.name: torch.zeros(len(prompts), s.units) for s in sites}
    times = {s.name: torch.zeros(len(prompts), 1) for s in sites}
    for start in range(0, len(prompts), batch):
        part = slice(start, min(start + batch, len(prompts)))

        def see(step: int, site, x: Tensor, part=part) -> None:
            x = x.float().reshape(part.stop - part.start, -1, site.units, site.width)  # an adaptive norm has one token
            power[site.name][part] += x.pow(2).mean((1, 3)).cpu()
            times[site.name][part] += 1

        noise = adapter.noise(len(prompts), seed)[part]
        observe(adapter, prompts[part], sites, see, steps=sampling_steps, sampling_steps=sampling_steps, seed=seed,
                batch=batch, noise=noise)  # fmt: skip
    return {name: (power[name] / times[name]).sqrt() for name in power}
