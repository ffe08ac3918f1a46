"""Adversarial fine-tuning, after Finding DoRI (Kowalczuk et al., 2025): whatever calls the picture must draw another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from torch import Tensor

from ..models._pictures import check_pictures
from ..models.base import Cond, ModelAdapter
from ..progress import progress
from ._search import search
from ._training import full_precision, noisy, positive, train


def adversarial(
    adapter: ModelAdapter,
    images: Tensor,
    prompts: Sequence[str],
    instead: Tensor,
    keep: Tensor,
    captions: Sequence[str],
    *,
    rounds: int = 5,
    searched: int = 50,
    search_lr: float = 0.1,
    steps: int = 40,
    lr: float = 1e-4,
    batch: int = 8,
    seed: int = 0,
) -> ModelAdapter:
    """A copy in which the embeddings that call ``images``, searched for anew in every round, call ``instead``.

    A round searches, from each prompt, the embedding under which its picture is likely (`stress.dori`'s search with one
    noise level a step), and then trains all weights with the denoising loss: on ``instead`` under the embeddings found,
    on ``instead`` under the prompts, and on ``keep`` under ``captions``, ``batch`` pictures of each a step.

    A reconstruction of the paper's idea from its description, not of its code; it needs the very pictures that are to
    be forgotten, so it is the opposite of UniForget in what it must be told.

    Args:
        images: what must not come back, prompts: its captions. instead: what is to be drawn in its place (the authors:
            pictures of a model whose memory is suppressed). keep, captions: other pictures, as they are to be drawn.
            Pictures are [n, 3, H, W] in [0, 1].
        searched: steps of the search; 0 searches nothing, which is the control for what the search adds.

    Raises ValueError for pictures, prompts and numbers that do not fit and for half precision, FloatingPointError when
    search or training diverges, RuntimeError inside `masked`.
    """
    prompts, captions = check_pictures(adapter, images, prompts), check_pictures(adapter, keep, captions)
    check_pictures(adapter, instead, prompts)
    positive(rounds=rounds, search_lr=search_lr, steps=steps, lr=lr, batch=batch)
    if searched < 0:
        raise ValueError(f"searched={searched}: needs 0 steps or more")
    full_precision(adapter)
    student = adapter.clone()
    with torch.no_grad():
        wanted, kept = (torch.cat([adapter.latents_of(part) for part in x.split(16)]) for x in (instead, keep))
        target, asked, texts = adapter.latents_of(images), adapter.encode(prompts), adapter.encode(captions)
    for k in progress(range(rounds), desc="adversarial fine-tuning"):
        way = search(student, target, asked, lr=search_lr, batch=1, seed=seed * 1009 + k, desc="search")
        found = next(islice(way, searched - 1, None))[0] if searched else asked

        def loss(generator: torch.Generator, found: Cond = found) -> Tensor:
            total = torch.zeros((), device=student.device)
            for x0, cond in ((wanted, found), (wanted, asked), (kept, texts)):
                chosen = torch.randint(len(x0), (batch,), generator=generator).tolist()
                x, sigma = noisy(student, x0[chosen], generator)
                slope = student.conditional(x, sigma, cond[chosen])
                total = total + (slope - (x - x0[chosen]) / sigma).float().pow(2).mean()
            return total

        train(student, loss, which="all", steps=steps, lr=lr, seed=seed * 1009 + k, desc="fine-tuning")
    return student
