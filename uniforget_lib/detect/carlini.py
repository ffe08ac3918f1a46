"""Agreement of generations (Carlini et al., 2023): a memorized prompt draws one picture, whatever the noise."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from ..models.base import ModelAdapter, check_prompts


@torch.no_grad()
def carlini(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    *,
    steps: int = 8,
    seeds: Sequence[int] = range(4),
    tiles: int = 4,
    near: float = 0.5,
    batch: int = 64,
) -> Tensor:
    """Minus the ``near``-quantile, over pairs of seeds, of the *tiled* distance of two generations.

    The tiled distance of two pictures is the largest root mean squared difference of a tile, with ``tiles`` tiles a
    side: it keeps two pictures apart that share a large plain ground but not what stands on it. The paper looks for a
    clique of 10 near duplicates among 500 generations; a quantile of the pairs is its continuous counterpart. Needs no
    training image, but whole samplings: ``steps * len(seeds)`` forwards a prompt.

    Returns:
        risk [n], higher = more likely memorized; pictures are in [0, 1].
    """
    prompts = check_prompts(prompts)
    if len(seeds) < 2:
        raise ValueError(f"seeds={list(seeds)}: needs at least two generations a prompt")
    if not 1 <= tiles <= adapter.resolution:
        raise ValueError(f"tiles={tiles}: needs 1 to {adapter.resolution} tiles a side")
    drawn = [adapter.images(prompts, steps=steps, seed=s, batch=batch) for s in seeds]
    pairs = [_tiled(a, b, tiles) for a, b in combinations(drawn, 2)]
    return -torch.stack(pairs).quantile(near, dim=0)


def _tiled(a: Tensor, b: Tensor, tiles: int) -> Tensor:
    """Largest root mean squared difference of a tile: [n]."""
    squared = torch.nn.functional.adaptive_avg_pool2d((a - b).pow(2).mean(1, keepdim=True), tiles)
    return squared.flatten(1).amax(1).sqrt()
