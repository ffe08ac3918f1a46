"""Sharpness (Jeon et al., ICML 2025): around a memorized image the probability has a sharp peak, already at the start."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..models.base import ModelAdapter, check_prompts
from ._walk import check_steps, norms, walk


def jeon(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    *,
    sampling_steps: int = 8,
    seeds: Sequence[int] = (0,),
    batch: int = 32,
) -> Tensor:
    """|| H s || at the first step: s = s(x, c) - s(x, "") is the difference of the scores, H its Jacobian in x.

    Slopes dx/dsigma take the place of scores. They differ by a factor that depends on sigma alone, so it is the same for
    all prompts. (On a rectified flow that factor would be zero at the first step, where the state is noise whatever the
    prompt; the slopes are not.) One Jacobian-vector product in forward mode, no second derivatives. Costs 2 denoiser
    forwards a seed and 2 more with their derivative, which take about twice as long each. Attention is computed in the
    open for it: at full size, choose ``batch`` by the memory of an attention matrix.

    Returns:
        risk [n], higher = more likely memorized, divided by the square root of the latent's size.
    """
    prompts = check_prompts(prompts)
    check_steps(1, sampling_steps, seeds)
    risk = torch.zeros(len(prompts))
    for seed in seeds:
        for at in walk(adapter, prompts, steps=1, sampling_steps=sampling_steps, seed=seed, batch=batch):

            def gap(x: Tensor, at=at) -> Tensor:
                given = adapter.conditional(x, at.sigma, at.cond)
                return given - adapter.conditional(x, at.sigma, adapter.empty(len(x)))

            with sdpa_kernel(SDPBackend.MATH), torch.no_grad():  # fused kernels have no forward derivative
                _, product = jvp(gap, (at.x,), (at.gap,))
            risk[at.part] += norms(product) / (at.gap[0].numel() ** 0.5 * len(seeds))
    return risk
