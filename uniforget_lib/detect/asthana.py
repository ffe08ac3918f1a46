"""Anisotropy (Asthana et al., ICLR 2026): two terms on pure noise, one at the noisiest level, one near none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.base import ModelAdapter, check_prompts
from ._walk import check_steps, norms


@torch.no_grad()
def asthana(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    *,
    gamma: tuple[float, float] = (1.0, 2.0),
    seeds: Sequence[int] = (0,),
    batch: int = 64,
) -> Tensor:
    """gamma[0] || e(x, c) - e(x, "") ||_2 at the first step, plus gamma[1] times the mean over places of the cosine of
    e(x, "") and e(x, c) - e(x, ""), over channels, near the last step. x is pure noise in both.

    The weights belong to a model: the authors use (1, 2) for Stable Diffusion 1.4, and (1, .1) for 2.0, where their
    cosine is that of raw v-predictions. Choose them on development prompts. "Near the last step" is t = 39 of 1000 on
    Stable Diffusion (theirs: 41). On a rectified flow the first term is the velocity's gap, because the gap of e vanishes
    there. Costs 4 denoiser forwards a seed.

    Returns:
        risk [n], higher = more likely memorized; the norm is not divided by the latent's size.
    """
    prompts = check_prompts(prompts)
    check_steps(1, 50, seeds)
    if len(gamma) != 2:
        raise ValueError(f"gamma={gamma!r}: needs two weights, of the norm and of the cosine")
    first, late = adapter.sigmas(50)[0], adapter.sigmas(50)[48]
    cond, risk = adapter.encode(prompts), torch.zeros(len(prompts))
    for seed in seeds:
        noise = adapter.noise(len(prompts), seed)
        for i in range(0, len(prompts), batch):
            x, c, part = noise[i : i + batch], cond[i : i + batch], slice(i, i + batch)
            empty = adapter.empty(len(x))
            size = norms(adapter.conditional(x, first, c) - adapter.conditional(x, first, empty))
            x = x / adapter.input_scale(first) * adapter.input_scale(late)
            given, none = (adapter.noise_prediction(x, late, adapter.conditional(x, late, k)) for k in (c, empty))
            gap = adapter.grid(given - none).float()  # eps: what rounding leaves of no gap has no direction
            cosine = F.cosine_similarity(adapter.grid(none).float(), gap, dim=1, eps=1e-4)
            risk[part] += (gamma[0] * size + gamma[1] * cosine.mean((1, 2)).cpu()) / len(seeds)
    return risk
