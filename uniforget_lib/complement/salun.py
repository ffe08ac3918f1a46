"""SalUn (Fan et al., ICLR 2024): let only those weights learn on which the forgotten pictures depend most."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.base import ModelAdapter, check_prompts
from ._training import check, drawn, matched, noisy, pick, train, trainable


def saliency(adapter: ModelAdapter, x0: Tensor, cond, *, share: float, batch: int, seed: int) -> dict[str, Tensor]:
    """The ``share`` of all weights with the largest absolute gradient of the training loss, summed over the pictures
    ``x0`` under ``cond``, a noise each: name -> bool. (The authors take it of the guided prediction.)"""
    generator = torch.Generator().manual_seed(seed)
    with trainable(adapter, "all") as weights, torch.enable_grad():
        for i in range(0, len(x0), batch):
            part = x0[i : i + batch]
            x, sigma = noisy(adapter, part, generator)
            error = adapter.conditional(x, sigma, cond[i : i + batch]) - (x - part) / sigma
            error.float().pow(2).flatten(1).mean(1).sum().backward()
        found = {n: torch.zeros_like(p) if p.grad is None else p.grad.abs() for n, p in weights.items()}
    flat = torch.cat([g.flatten() for g in found.values()])
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[flat.argsort(descending=True, stable=True)[: round(share * len(flat))]] = True
    return {n: mask.view_as(found[n]) for n, mask in zip(found, chosen.split([g.numel() for g in found.values()]))}


def salun(
    adapter: ModelAdapter,
    forget: Sequence[str],
    other: Sequence[str],
    retain: Sequence[str],
    *,
    share: float = 0.5,
    alpha: float = 0.5,
    steps: int = 100,
    lr: float = 1e-5,
    batch: int = 4,
    images: int = 64,
    sampling_steps: int = 8,
    seed: int = 0,
) -> ModelAdapter:
    """Train d(x, c_forget) towards d(x, c_other) without gradient, on pictures of the forgotten prompts, plus ``alpha`` times
    the training loss on pictures of ``retain``; only the most salient ``share`` of the weights changes.

    All pictures are drawn by the model itself, ``images`` for each of the two lists.

    Args:
        other: what each prompt of ``forget`` is to be read as, one for each or one for all.

    Raises ValueError for lists that do not match, a share outside (0, 1], bad numbers and half precision;
    FloatingPointError when training diverges.
    """
    forget, other = matched(forget, other, "other")
    retain = check_prompts(retain)
    check(adapter, steps=steps, lr=lr, batch=batch, images=images)
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: needs a share of the weights, above 0 and at most 1")
    student = adapter.clone()

    x_forget, x_retain = (drawn(adapter, p, images, steps=sampling_steps, seed=seed) for p in (forget, retain))
    with torch.no_grad():
        source, goal, kept = (adapter.encode(p) for p in (forget, other, retain))
    shown = source[[k % len(forget) for k in range(len(x_forget))]]
    keep = saliency(student, x_forget, shown, share=share, batch=batch, seed=seed)

    def loss(generator: torch.Generator) -> Tensor:
        chosen = pick(len(x_forget), batch, generator)
        x, sigma = noisy(adapter, x_forget[chosen], generator)
        index = (chosen % len(forget)).tolist()
        with torch.no_grad():
            wanted = student.conditional(x, sigma, goal[index])
        lost = (student.conditional(x, sigma, source[index]) - wanted).float().pow(2).mean()
        chosen = pick(len(x_retain), batch, generator)
        x0 = x_retain[chosen]
        x, sigma = noisy(adapter, x0, generator)
        found = student.conditional(x, sigma, kept[(chosen % len(retain)).tolist()])
        return lost + alpha * (found - (x - x0) / sigma).float().pow(2).mean()

    return train(student, loss, which="all", steps=steps, lr=lr, seed=seed, keep=keep, desc="SalUn")
