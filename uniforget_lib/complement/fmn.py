"""Forget-Me-Not (Zhang et al., 2023): take the attention away from the forgotten words."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..hooks import attention
from ..models.base import ModelAdapter, check_prompts
from ._training import noisy, pick, train


def fmn(
    adapter: ModelAdapter,
    forget: Sequence[str],
    *,
    which: str = "attention",
    steps: int = 35,
    lr: float = 2e-6,
    batch: int = 1,
    images: int = 8,
    sampling_steps: int = 8,
    seed: int = 0,
) -> ModelAdapter:
    """Minimise the Euclidean norm of the attention to the prompt's own tokens and its end token, on its own pictures.

    There is no other term: nothing holds the rest of the model in place but few steps and a small learning rate. The
    paper's textual inversion, which first finds a token for the concept, is left out. Maps are averaged over heads here.
    """
    forget = check_prompts(forget)
    student, lengths = adapter.clone(), adapter.prompt_lengths(forget)
    times = -(-images // len(forget))
    x0 = torch.cat([adapter.latents(forget, steps=sampling_steps, seed=seed + k) for k in range(times)])
    with torch.no_grad():
        cond = adapter.encode(forget)

    def loss(generator: torch.Generator) -> torch.Tensor:
        chosen = pick(len(x0), batch, generator)
        index = (chosen % len(forget)).tolist()
        x, sigma = noisy(adapter, x0[chosen], generator)
        return mass(student, x, sigma, cond[index], lengths[index])

    return train(student, loss, which=which, steps=steps, lr=lr, seed=seed, desc="Forget-Me-Not")


def mass(adapter: ModelAdapter, x: torch.Tensor, sigma: torch.Tensor, cond, lengths: torch.Tensor) -> torch.Tensor:
    """Euclidean norm of the attention, over layers and image, to the tokens between begin and padding: a scalar."""
    with attention(adapter, grad=torch.is_grad_enabled()) as maps:
        adapter.conditional(x, sigma, cond)
    tokens = next(iter(maps.values())).shape[-1]
    place = torch.arange(tokens)
    mine = ((place >= adapter.begin) & (place < lengths[:, None])).to(x.device)
    return torch.cat([m.transpose(1, 2)[mine].flatten() for m in maps.values()]).norm()
