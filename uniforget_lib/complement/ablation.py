"""Concept Ablation (Kumari et al., ICCV 2023): read the forgotten prompt as another one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..models.base import ModelAdapter
from ._training import check, drawn, matched, noisy, pick, train


def ablation(
    adapter: ModelAdapter,
    forget: Sequence[str],
    anchor: Sequence[str],
    *,
    which: str = "text",
    steps: int = 100,
    lr: float = 8e-6,
    batch: int = 4,
    images: int = 200,
    sampling_steps: int = 8,
    seed: int = 0,
) -> ModelAdapter:
    """Train d(x, c_forget) towards d(x, c_anchor) of the current model, without gradient, on pictures of the anchor.

    The pictures are drawn by the model itself, ``images`` of them over all anchors. The model-based variant of the
    paper. lr is that of its code, 2e-6 scaled by a batch of 4 on one GPU; to forget a memorized *image* they train all
    weights (``which="all"``, lr 2e-6, 400 steps) and add a loss on other pictures, which is left out here, as are
    their weight decay (.01) and the detached begin token.

    Args:
        anchor: what each prompt of ``forget`` is to be read as, one for each or one for all.
        which: weights to train, see `_training.parameters`; ``text`` are keys and values of the cross-attention.

    Raises ValueError for lists that do not match, bad numbers and half precision, FloatingPointError when it diverges.
    """
    forget, anchor = matched(forget, anchor, "anchor")
    check(adapter, steps=steps, lr=lr, batch=batch, images=images)
    student = adapter.clone()
    x0 = drawn(adapter, anchor, images, steps=sampling_steps, seed=seed)
    with torch.no_grad():
        source, goal = adapter.encode(forget), adapter.encode(anchor)

    def loss(generator: torch.Generator) -> torch.Tensor:
        chosen = pick(len(x0), batch, generator)
        x, sigma = noisy(adapter, x0[chosen], generator)
        index = (chosen % len(forget)).tolist()
        with torch.no_grad():
            wanted = student.conditional(x, sigma, goal[index])
        return (student.conditional(x, sigma, source[index]) - wanted).float().pow(2).mean()

    return train(student, loss, which=which, steps=steps, lr=lr, seed=seed, desc="Concept Ablation")
