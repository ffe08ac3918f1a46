"""What locators share: the activations of a sampling, and the check of their two lists of prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..hooks import watch
from ..models.base import ModelAdapter, check_prompts
from ..sites import Site


def check_contrast(prompts: Sequence[str], base: Sequence[str]) -> tuple[list[str], list[str]]:
    """Both as lists. Raises ValueError when one is empty and TypeError for what is no list of strings."""
    try:
        return check_prompts(prompts), check_prompts(base)
    except (ValueError, TypeError) as error:
        raise type(error)(f"prompts or base: {error}") from None


@torch.no_grad()
def observe(
    adapter: ModelAdapter,
    prompts: list[str],
    sites: Sequence[Site],
    see: Callable[[int, Site, Tensor], None],
    *,
    steps: int,
    sampling_steps: int,
    seed: int,
    batch: int,
    noise: Tensor | None = None,
) -> int:
    """Call ``see(step, site, x)`` with activations [n, ..., units * width] over the first ``steps`` of a sampling
    without guidance, from ``noise`` or that of ``seed``. Returns the denoiser forwards that it took, in samples."""
    if not 1 <= steps <= sampling_steps:
        raise ValueError(f"steps={steps}: needs 1 <= steps <= sampling_steps ({sampling_steps})")
    noise = adapter.noise(len(prompts), seed) if noise is None else noise
    cond, sigmas = adapter.encode(prompts), adapter.sigmas(sampling_steps)
    for i in range(0, len(prompts), batch):
        x, c = noise[i : i + batch], cond[i : i + batch]
        for k in range(steps):
            with watch(adapter, sites, lambda site, values, k=k: see(k, site, values)):
                slope = adapter.conditional(x, sigmas[k], c)
            x = x + (sigmas[k + 1] - sigmas[k]) * slope
    return steps * len(prompts)
