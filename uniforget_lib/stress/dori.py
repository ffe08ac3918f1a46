"""Finding DoRI (Kowalczuk et al., 2025): search the text embedding that brings a picture back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..complement._search import search
from ..models.base import ModelAdapter
from ..progress import progress
from ._recovery import Recovery, check_efforts, check_targets


def dori(
    adapter: ModelAdapter,
    images: Tensor,
    prompts: Sequence[str],
    *,
    efforts: Sequence[int] = (0, 50),
    lr: float = 0.1,
    batch: int = 8,
    seeds: Sequence[int] = (100, 101),
    sampling_steps: int = 8,
    seed: int = 0,
) -> Recovery:
    """From the embedding of each prompt on, minimise the denoising loss of its picture; the weights stay as they are.

    Adam with ``lr``; a step takes ``batch`` noise levels with fresh noise, the paper's setting (50 steps, batch 8). The
    embedding, its pooled part included, is free: no token needs to have it. Pictures are drawn with the adapter's own
    guidance, from noises ``seeds`` that the attack does not know.

    All targets are attacked at once, and none feels the others: give no more than the graph of a forward has room for.

    Args:
        images: the pictures to bring back: [n, 3, H, W] in [0, 1]. prompts: where the search starts, one for each.
        efforts: after how many steps to draw; the last one ends the attack.

    Raises ValueError for bad pictures, prompts and numbers, FloatingPointError when the search diverges.
    """
    prompts, efforts = check_targets(adapter, images, prompts, lr=lr, batch=batch), check_efforts(efforts)
    x0, start = adapter.latents_of(images), adapter.encode(prompts)
    way, cond, found = search(adapter, x0, start, lr=lr, batch=batch, seed=seed, desc="DoRI"), start, Recovery()
    for step in progress(range(efforts[-1] + 1), desc="DoRI"):
        if step:
            cond, loss = next(way)
            found.losses.append(loss)
        if step in efforts:
            found.efforts.append(step)
            found.images.append(torch.stack([adapter.images(cond, steps=sampling_steps, seed=s) for s in seeds]))
    return found
