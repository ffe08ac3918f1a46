"""Forget-Me-Not (Zhang et al., 2023): take the attention away from the forgotten words."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..hooks import attention
from ..models.base import ModelAdapter, check_prompts
from ._training import check, drawn, noisy, pick, train


def fmn(
    adapter: ModelAdapter,
    forget: Sequence[str],
    *,
    which: str = "all",
    words: int | None = None,
    steps: int = 35,
    lr: float = 2e-6,
    batch: int = 1,
    images: int = 8,
    sampling_steps: int = 8,
    seed: int = 0,
) -> ModelAdapter:
    """Minimise the Euclidean norm of the attention to the concept's tokens and the end token, on pictures of the prompt.

    There is no other term: nothing holds the rest of the model in place but few steps and a small learning rate. Unlike
    in the paper the pictures are the model's own; its textual inversion, which first finds a token for the concept,
    is left out, and so is clipping of the gradient. Maps are averaged over heads here. The padding of Stable Diffusion 1.x,
    which in the authors' code counts as end tokens, does not; of SD3 only CLIP's part of the text counts.

    All attention stays in the graph: at 1024 pixels FLUX and SD3 do not fit a GPU.

    Args:
        which: weights to train, see `_training.parameters`; the authors' released setting is all of them.
        words: how many words at the end of the prompt are the concept; all unless given.

    Raises ValueError for bad numbers and half precision, FloatingPointError when it diverges, RuntimeError where attention
    cannot be read.
    """
    forget = check_prompts(forget)
    check(adapter, steps=steps, lr=lr, batch=batch, images=images, **({} if words is None else {"words": words}))
    student, lengths = adapter.clone(), adapter.prompt_lengths(forget)
    x0 = drawn(adapter, forget, images, steps=sampling_steps, seed=seed)
    with torch.no_grad():
        cond = adapter.encode(forget)

    def loss(generator: torch.Generator) -> torch.Tensor:
        chosen = pick(len(x0), batch, generator)
        index = (chosen % len(forget)).tolist()
        x, sigma = noisy(adapter, x0[chosen], generator)
        return mass(student, x, sigma, cond[index], lengths[index], words)

    return train(student, loss, which=which, steps=steps, lr=lr, seed=seed, desc="Forget-Me-Not")


def mass(adapter: ModelAdapter, x: torch.Tensor, sigma: torch.Tensor, cond, lengths: torch.Tensor,
         words: int | None = None) -> torch.Tensor:  # fmt: skip
    """Euclidean norm of the attention, over layers and image, to the last ``words`` tokens (all, unless given) of prompts
    of ``lengths`` tokens and to their end tokens: a scalar."""
    with attention(adapter, grad=torch.is_grad_enabled()) as maps:
        adapter.conditional(x, sigma, cond)
    tokens = next(iter(maps.values())).shape[-1]
    place = torch.arange(tokens)
    first = lengths * 0 + adapter.begin if words is None else (lengths - 1 - words).clamp(min=adapter.begin)
    mine = ((place >= first[:, None]) & (place < lengths[:, None])).to(x.device)
    return torch.cat([m.transpose(1, 2)[mine].flatten() for m in maps.values()]).norm()
