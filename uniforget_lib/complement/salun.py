"""SalUn (Fan et al., ICLR 2024): let only those weights learn on which the forgotten pictures depend most."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.base import ModelAdapter, check_prompts
from ._training import matched, noisy, pick, train, trainable


def saliency(adapter: ModelAdapter, x0: Tensor, cond, *, share: float, draws: int, seed: int) -> dict[str, Tensor]:
    """The ``share`` of all weights with the largest gradient, summed over pictures and ``draws`` noises: name -> bool."""
    generator = torch.Generator().manual_seed(seed)
    with trainable(adapter, "all") as weights, torch.enable_grad():
        for _ in range(draws):
            x, sigma = noisy(adapter, x0, generator)
            slope = (x - x0) / sigma
            (adapter.conditional(x, sigma, cond) - slope).float().pow(2).mean().backward()
        found = {n: torch.zeros_like(p) if p.grad is None else p.grad.abs() for n, p in weights.items()}
    flat = torch.cat([g.flatten() for g in found.values()])
    cut = flat.kthvalue(max(1, round((1 - share) * len(flat)))).values
    return {name: g > cut for name, g in found.items()}


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

    All pictures are drawn by the model itself, ``images`` for each of the two lists. Raises ValueError for lists that do
    not match and for a share outside (0, 1].
    """
    forget, other = matched(forget, other, "other")
    retain = check_prompts(retain)
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: needs a share of the weights, above 0 and at most 1")
    student = adapter.clone()

    def drawn(prompts: list[str]) -> Tensor:
        times = -(-images // len(prompts))
        return torch.cat([adapter.latents(prompts, steps=sampling_steps, seed=seed + k) for k in range(times)])

    x_forget, x_retain = drawn(forget), drawn(retain)
    with torch.no_grad():
        source, goal, kept = (adapter.encode(p) for p in (forget, other, retain))
    keep = saliency(student, x_forget[: len(forget)], source, share=share, draws=8, seed=seed)

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
