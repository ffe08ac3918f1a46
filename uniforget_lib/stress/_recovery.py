"""What attacks share: their result, and the loss that a picture has under a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..models.base import Cond, ModelAdapter, check_prompts


@dataclass
class Recovery:
    """What an attack brought back.

    Attributes:
        efforts: how many optimiser steps had been made, in rising order; 0 is before the attack.
        images: for each effort, what is drawn then: [seeds, n, 3, H, W] in [0, 1].
        losses: mean training loss of every step.
    """

    efforts: list[int] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def check_targets(images: Tensor, prompts: Sequence[str]) -> list[str]:
    """The prompts as a list. Raises ValueError unless there is one image [3, H, W] for each."""
    prompts = check_prompts(prompts)
    if images.ndim != 4 or len(images) != len(prompts):
        raise ValueError(f"images has shape {list(images.shape)} for {len(prompts)} prompts: needs [n, 3, H, W]")
    return prompts


def picture_loss(adapter: ModelAdapter, x0: Tensor, cond: Cond, generator: torch.Generator) -> Tensor:
    """Denoising loss of clean latents at one random noise level, mean squared error of the slope: [n]."""
    sigma = adapter.level(float(torch.rand((), generator=generator) * 0.98 + 0.01))
    noise = torch.randn(x0.shape, generator=generator).to(x0)
    x = adapter.noised(x0, noise, sigma)
    return (adapter.conditional(x, sigma, cond) - (x - x0) / sigma).float().pow(2).flatten(1).mean(1)


def check_efforts(efforts: Sequence[int]) -> list[int]:
    """``efforts``, sorted, each once. Raises ValueError for none at all and for a negative one."""
    efforts = sorted(set(efforts))
    if not efforts or efforts[0] < 0:
        raise ValueError(f"efforts={efforts}: give numbers of steps, 0 or more")
    return efforts
