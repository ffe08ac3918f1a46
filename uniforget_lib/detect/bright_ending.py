"""Bright Ending (Chen et al., ICLR 2025): a memorized image ends with its attention on the end token, where it is a copy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.base import ModelAdapter, check_prompts
from ._walk import check_steps, ending, norms, walk


def bright_ending(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    *,
    sampling_steps: int = 8,
    seeds: Sequence[int] = (0,),
    batch: int = 64,
) -> Tensor:
    """Mean over steps of || (v(x, c) - v(x, "")) m || / mean(m): the text-conditional gap where the ending is bright.

    m is the attention of the *last* step to the end token (see `ending`), so the whole sampling comes first. Costs 2
    denoiser forwards a step and seed.

    Returns:
        risk [n], higher = more likely memorized, divided by the square root of the latent's size.
    """
    prompts = check_prompts(prompts)
    check_steps(sampling_steps, sampling_steps, seeds)
    lengths, risk = adapter.prompt_lengths(prompts), torch.zeros(len(prompts))
    for seed in seeds:
        gaps: list[Tensor] = []
        for at in walk(adapter, prompts, steps=sampling_steps, sampling_steps=sampling_steps, seed=seed, batch=batch,
                       look=(sampling_steps - 1,)):  # fmt: skip
            gaps.append(adapter.grid(at.gap))
            if at.index == sampling_steps - 1:
                m = F.interpolate(ending(adapter, at, lengths[at.part]), size=gaps[0].shape[2:], mode="nearest")
                bright = torch.stack([norms(gap * m) for gap in gaps]).mean(0) / m.mean((1, 2, 3)).cpu()
                risk[at.part] += bright / (gaps[0][0].numel() ** 0.5 * len(seeds))
                gaps = []
    return risk
