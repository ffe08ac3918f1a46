"""The search for an embedding under which a picture is likely: what `stress.dori` attacks with, and what
`complement.adversarial` trains against."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields

import torch
from torch import Tensor

from ..models.base import Cond, ModelAdapter
from ._training import noisy


def picture_loss(adapter: ModelAdapter, x0: Tensor, cond: Cond, generator: torch.Generator) -> Tensor:
    """Denoising loss of clean latents at one random noise level, the same for all: mean squared error of the slope, [n]."""
    x, sigma = noisy(adapter, x0, generator)
    return (adapter.conditional(x, sigma, cond) - (x - x0) / sigma).float().pow(2).flatten(1).mean(1)


def search(adapter: ModelAdapter, x0: Tensor, start: Cond, *, lr: float, batch: int, seed: int,
           desc: str) -> Iterator[tuple[Cond, float]]:  # fmt: skip
    """Adam on the embeddings ``start`` [n], each towards the picture whose clean latents are in the same row of ``x0``.

    A step takes the mean of `picture_loss` over ``batch`` noises and levels; step k draws from (seed, k). Yields, for as
    long as it is asked, the embeddings after a step and the loss that the step went down from. Rows do not feel each
    other. Raises FloatingPointError when the loss is no number: an attack that diverged is no resistance.
    """
    given = {f.name: getattr(start, f.name) for f in fields(start)}
    parts = {name: v.detach().float().clone().requires_grad_() for name, v in given.items() if v is not None}
    optimizer, step = torch.optim.Adam(parts.values(), lr=lr), 0

    def embedding(parts: dict[str, Tensor]) -> Cond:
        return Cond(**{name: part.to(adapter.dtype) for name, part in parts.items()})

    while True:
        optimizer.zero_grad()
        total, generator = 0.0, torch.Generator().manual_seed(seed * 1_000_003 + step)
        for _ in range(batch):
            with torch.enable_grad():
                loss = picture_loss(adapter, x0, embedding(parts), generator).sum() / batch
                loss.backward()
            total += float(loss.detach()) / len(x0)
        step += 1
        if not math.isfinite(total):
            raise FloatingPointError(f"{desc}: the loss of step {step} is {total}; lower lr={lr}")
        optimizer.step()
        yield embedding({name: part.detach().clone() for name, part in parts.items()}), total
