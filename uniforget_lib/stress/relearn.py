"""Relearning: how few steps of fine-tuning on the pictures bring them back? A model that forgot only in name is quick."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..complement._search import picture_loss
from ..models.base import ModelAdapter
from ..progress import progress
from ._recovery import Recovery, check_efforts, check_loss, check_targets


def relearn(
    adapter: ModelAdapter,
    images: Tensor,
    prompts: Sequence[str],
    *,
    efforts: Sequence[int] = (0, 5, 10, 25, 50, 100),
    lr: float = 1e-4,
    batch: int = 8,
    seeds: Sequence[int] = (100, 101),
    sampling_steps: int = 8,
    seed: int = 0,
) -> Recovery:
    """Fine-tune all weights of a copy on ``images`` under ``prompts``, AdamW without weight decay, and draw along the way.

    The curve means nothing by itself: set it beside that of the twin, which learns the pictures for the first time.

    Args:
        images: the pictures to bring back: [n, 3, H, W] in [0, 1]. prompts: their captions, one for each.
        efforts: after how many steps to draw; the last one ends the training.

    Raises ValueError for bad pictures, prompts and numbers, and for weights in half precision, in which small steps round
    away (a model that cannot learn would look as if it resisted); FloatingPointError when training diverges.
    """
    prompts, efforts = check_targets(adapter, images, prompts, lr=lr, batch=batch), check_efforts(efforts)
    if adapter.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"the weights are {adapter.dtype}: load the model with dtype=torch.float32 to relearn")
    student, found = adapter.clone(), Recovery()
    x0, cond = adapter.latents_of(images), adapter.encode(prompts)
    student.denoiser.requires_grad_(True)
    optimizer = torch.optim.AdamW(student.denoiser.parameters(), lr=lr, weight_decay=0.0)
    for step in progress(range(efforts[-1] + 1), desc="relearning"):
        if step in efforts:
            found.efforts.append(step)
            found.images.append(torch.stack([student.images(cond, steps=sampling_steps, seed=s) for s in seeds]))
        if step == efforts[-1]:
            break
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen = torch.randint(len(x0), (batch,), generator=generator).tolist()
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = picture_loss(student, x0[chosen], cond[chosen], generator).mean()
            loss.backward()
        found.losses.append(check_loss(float(loss.detach()), "relearning", step, lr))
        optimizer.step()
    return found
