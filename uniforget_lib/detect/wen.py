"""Text-conditional gap (Wen et al., ICLR 2024): a memorized prompt pulls harder on the first step than others do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.base import ModelAdapter, check_prompts
from ..sampler import euler_step


@torch.no_grad()
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
    place: e = x + (1 - sigma) v, so the gap of e is that of v times (1 - sigma) and vanishes at the first step.
    Guidance does not enter the gap, only the way to the next step. Costs 2 denoiser forwards a step and seed, and
    one or two more for every step after the first; no image is made.

    Returns:
        risk [n], higher = more likely memorized, divided by the square root of the latent's size.
    """
    prompts = check_prompts(prompts)
    if not 1 <= steps <= sampling_steps:
        raise ValueError(f"steps={steps}: needs 1 <= steps <= sampling_steps ({sampling_steps})")
    if not len(seeds):
        raise ValueError("seeds is empty; give at least one")
    sigmas = adapter.sigmas(sampling_steps)[: steps + 1]
    cond = adapter.encode(prompts)
    risk = torch.zeros(len(prompts))
    for seed in seeds:
        noise = adapter.noise(len(prompts), seed)
        for i in range(0, len(prompts), batch):
            x, c = noise[i : i + batch], cond[i : i + batch]
            for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:]):
                gap = adapter.conditional(x, sigma, c) - adapter.conditional(x, sigma, adapter.empty(len(x)))
                risk[i : i + batch] += gap.float().flatten(1).pow(2).mean(1).sqrt().cpu() / (steps * len(seeds))
                if sigma_next != sigmas[-1]:
                    x = euler_step(adapter.predict, x, sigma, sigma_next, c)
    return risk
