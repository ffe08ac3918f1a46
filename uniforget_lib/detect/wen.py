"""Text-conditional gap (Wen et al., ICLR 2024): a memorized prompt pulls harder than others do, from the first step on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.base import ModelAdapter, check_prompts
from ._walk import check_steps, norms, walk


def gap_curve(adapter: ModelAdapter, prompts: Sequence[str], *, steps: int = 8, sampling_steps: int = 8,
              seeds: Sequence[int] = (0,), batch: int = 64) -> Tensor:  # fmt: skip
    """The gap of every step, as the root mean square of its entries, averaged over seeds: [steps, n]."""
    prompts = check_prompts(prompts)
    check_steps(steps, sampling_steps, seeds)
    curve = torch.zeros(steps, len(prompts))
    for seed in seeds:
        for at in walk(adapter, prompts, steps=steps, sampling_steps=sampling_steps, seed=seed, batch=batch):
            curve[at.index, at.part] += norms(at.gap) / (at.gap[0].numel() ** 0.5 * len(seeds))
    return curve


def wen(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    *,
    steps: int = 1,
    sampling_steps: int = 8,
    seeds: Sequence[int] = (0,),
    batch: int = 64,
) -> Tensor:
    """Mean over the first ``steps`` of ``sampling_steps`` steps, and over seeds, of || v(x, c) - v(x, "") ||_2.

    The paper measures the noise prediction e of a diffusion model. For a rectified flow the velocity v takes its
    place: e = x + (1 - sigma) v, so the gap of e is that of v times (1 - sigma) and vanishes at the first step. Both
    are the gap of the predicted clean latents, divided by sigma. Guidance does not enter the gap, only the way to the
    next step. Costs 2 denoiser forwards a step and seed; no image is made.

    Returns:
        risk [n], higher = more likely memorized, divided by the square root of the latent's size.
    """
    return gap_curve(adapter, prompts, steps=steps, sampling_steps=sampling_steps, seeds=seeds, batch=batch).mean(0)
