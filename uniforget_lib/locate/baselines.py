"""The controls that every locator is judged beside: random units, and units with small weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..masks import Score
from ..models.base import ModelAdapter
from ..models.shrunk import KeptRows


def random(adapter: ModelAdapter, *, kinds: Sequence[str] = ("ffn", "norm"), seed: int = 0) -> Score:
    """A uniform draw for each unit."""
    generator = torch.Generator().manual_seed(seed)
    values = {s.name: torch.rand(s.units, generator=generator) for s in adapter.sites(kinds)}
    return Score(values, "random", adapter.fingerprint)


def magnitude(adapter: ModelAdapter, *, kinds: Sequence[str] = ("ffn", "norm")) -> Score:
    """Minus the L2 norm of the weights that a mask would scale: small weights are removed first."""
    values = {}
    for site in adapter.sites(kinds):
        total = torch.zeros(site.units)
        for ref in site.masked_refs:
            linear = adapter.denoiser.get_submodule(ref.linear)
            weight = linear.weight.detach().float().cpu()
            if isinstance(linear, KeptRows):  # rows that were shrunk away count as 0
                kept, weight = weight, weight.new_zeros(linear.out_features, linear.in_features)
                weight[linear.rows.cpu()] = kept
            block = weight[:, ref.start : ref.stop].T if site.readers else weight[ref.start : ref.stop]
            total += block.reshape(site.units, -1).pow(2).sum(1)
        values[site.name] = -total.sqrt()
    return Score(values, "magnitude", adapter.fingerprint)
