"""Prompt embeddings of a smaller gap (Wen et al., ICLR 2024, arXiv 2407.21720): change the embedding until the prompt
no longer pulls as hard as a memorized one does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from ..models.base import Cond, ModelAdapter
from ._sampling import check_counts, check_range, check_sampling, parts

TARGET = 3 / 256  # the authors' 3, which is the norm over four latents [4, 64, 64] of Stable Diffusion 1.4


def wen(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    *,
    target: float = TARGET,
    iterations: int = 10,
    lr: float = 0.05,
    steps: int = 4,
    seed: int = 0,
    batch: int = 64,
) -> Tensor:
    """Sample with the embeddings of `lowered`: their gap || v(x, c) - v(x, "") || at the first step is at most
    ``target``, or has been lowered ``iterations`` times.

    The paper measures the noise prediction e of a diffusion model; there dx/dsigma *is* e. For a rectified flow the
    velocity v takes its place, as in `detect.wen`: the gap of e is that of v times 1 - sigma, and vanishes at the first
    step. Flow models without guidance (FLUX schnell) sample without the empty prompt that the gap is measured against.

    Costs, a prompt: 1 + k denoiser evaluations, k of them with a backward pass (the last not, when it meets the
    target), and then a plain sampling. k is at most ``iterations``; 1 for a prompt that meets the target from the
    start; none of them, the 1 included, for ``iterations=0``.

    Args:
        target: the root mean square of the gap's entries, in the units of `detect.wen`, and as dependent on the model:
            take what neutral prompts have there. The default is the authors' for Stable Diffusion 1.4 at 512 pixels.
            ``math.inf`` changes nothing; 0 is no target, for AdamW then follows the rounding of a gap that is nil.
        iterations: optimiser steps at most. lr: of AdamW, with the authors' weight decay (torch's).
        batch: prompts at once; the graph of a forward with as many must fit.

    Returns:
        images [n, 3, H, W] in [0, 1].

    Raises ValueError for numbers out of range, FloatingPointError for a gap that is not finite.
    """
    prompts = check_sampling(adapter, prompts, steps=steps, batch=batch)
    options = dict(target=target, iterations=iterations, lr=lr)
    cond = lowered(adapter, prompts, **options, steps=steps, seed=seed, batch=batch)
    return adapter.images(cond, steps=steps, seed=seed, batch=batch)


def lowered(adapter: ModelAdapter, prompts: Sequence[str], *, target: float = TARGET, iterations: int = 10,
            lr: float = 0.05, steps: int = 4, seed: int = 0, batch: int = 64) -> Cond:  # fmt: skip
    """Embeddings of ``prompts`` whose gap at the first of ``steps`` steps, from the noise of ``seed``, is lowered.

    Each prompt is optimised for itself: its own loss, its own state of AdamW, its own end. As in the authors' code the
    gap's norm is the loss, the begin token keeps its embedding, the target is looked at before a step (the last step is
    not measured again), and noise and embedding are those that are then sampled. Theirs is one embedding for four
    noises, here every row has one of its own. A pooled embedding, which Stable Diffusion has not, is free as well.
    """
    prompts = check_sampling(adapter, prompts, steps=steps, batch=batch)
    check_range(0, math.inf, target=target)
    check_range(0, 1e6, lr=lr)
    check_counts(0, iterations=iterations)
    cond = adapter.encode(prompts)
    if iterations == 0:
        return cond
    x, sigma = adapter.noise(len(prompts), seed), adapter.sigmas(steps)[0]
    found = [_lower(adapter, x[p], sigma, cond[p], target, iterations, lr) for p in parts(len(prompts), batch)]
    return Cond.cat(found)


def _lower(adapter: ModelAdapter, x: Tensor, sigma: Tensor, start: Cond, target: float, iterations: int,
           lr: float) -> Cond:  # fmt: skip
    """One batch. x: [n, ...]; sigma: a scalar. A tensor a prompt: AdamW passes over those without a gradient."""
    names = [f.name for f in fields(start) if getattr(start, f.name) is not None]
    free = [{name: _free(adapter, getattr(start[[i]], name), name) for name in names} for i in range(len(start))]
    optimizer = torch.optim.AdamW([p for row in free for p in row.values()], lr=lr)

    def embedding(i: int) -> Cond:
        row = {name: p.to(adapter.dtype) for name, p in free[i].items()}
        row["embeds"] = torch.cat([start.embeds[[i], : adapter.begin], row["embeds"]], dim=1)
        return Cond(**row)

    with torch.no_grad():
        empty = adapter.conditional(x, sigma, adapter.empty(len(x)))  # the same at all iterations
    going = list(range(len(x)))
    for _ in range(iterations):
        with torch.enable_grad():
            slope = adapter.conditional(x[going], sigma, Cond.cat([embedding(i) for i in going]))
            norm = torch.linalg.vector_norm((slope - empty[going]).float().flatten(1), dim=1)
            if not norm.isfinite().all():
                raise FloatingPointError(f"wen: a gap is {float(norm.sum())}; lower lr={lr}")
            above = (norm.detach() > target * empty[0].numel() ** 0.5).cpu()
            going = [i for i, more in zip(going, above.tolist()) if more]
            if not going:
                break
            wanted = [p for i in going for p in free[i].values()]
            slopes = torch.autograd.grad(norm[above.to(norm.device)].sum(), wanted)
        optimizer.zero_grad(set_to_none=True)
        for p, slope in zip(wanted, slopes):
            p.grad = slope
        optimizer.step()
    with torch.no_grad():
        return Cond.cat([embedding(i) for i in range(len(x))])


def _free(adapter: ModelAdapter, part: Tensor, name: str) -> Tensor:
    """What may change of a prompt's embedding, in fp32: all tokens but the begin token; all of the pooled state."""
    part = part[:, adapter.begin :] if name == "embeds" else part
    return part.detach().float().clone().requires_grad_()
