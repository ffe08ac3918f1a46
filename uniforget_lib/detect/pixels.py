"""Which pixels are memorized? Maps over the latents, for the images whose copied part does not fill them (templates).

All look at the last step. The noise left there depends on ``sampling_steps``: on Stable Diffusion t is 124 of 1000 with
8 steps and 19 with 50, where Kim and Lee take 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.base import ModelAdapter, check_prompts
from ._walk import check_steps, ending, walk


def _last_step(adapter: ModelAdapter, prompts: list[str], sampling_steps: int, seed: int, batch: int, look: bool):
    for at in walk(adapter, prompts, steps=sampling_steps, sampling_steps=sampling_steps, seed=seed, batch=batch,
                   look=(sampling_steps - 1,) if look else ()):  # fmt: skip
        if at.index == sampling_steps - 1:
            yield at


def ending_map(
    adapter: ModelAdapter, prompts: Sequence[str], *, sampling_steps: int = 8, seed: int = 0, batch: int = 64
) -> Tensor:
    """Bright Ending (Chen et al., ICLR 2025): the last step's attention to the end token: [n, rows, columns].

    As fine as the finest attention, see `_walk.ending`.
    """
    prompts = check_prompts(prompts)
    check_steps(sampling_steps, sampling_steps, (seed,))
    lengths = adapter.prompt_lengths(prompts)
    steps = _last_step(adapter, prompts, sampling_steps, seed, batch, look=True)
    return torch.cat([ending(adapter, at, lengths[at.part])[:, 0].cpu() for at in steps])


def difference_map(
    adapter: ModelAdapter, prompts: Sequence[str], *, sampling_steps: int = 8, seed: int = 0, batch: int = 64
) -> Tensor:
    """Squared text-conditional gap of the last step, summed over channels: [n, rows, columns].

    The cheap stand-in for `curvature_map` (Kim and Lee, ICML 2026): what a prompt fixes, it also moves.
    """
    prompts = check_prompts(prompts)
    check_steps(sampling_steps, sampling_steps, (seed,))
    steps = _last_step(adapter, prompts, sampling_steps, seed, batch, look=False)
    return torch.cat([adapter.grid(at.gap).float().pow(2).sum(1).cpu() for at in steps])


def curvature_map(adapter: ModelAdapter, prompts: Sequence[str], *, sampling_steps: int = 8, probes: int = 16,
                  seed: int = 0, batch: int = 64) -> Tensor:  # fmt: skip
    """Coordinate-wise curvature difference (Kim and Lee, ICML 2026) at the last step: [n, rows, columns], at least 0.

    The diagonal of the Jacobian of the gap, by Hutchinson's estimator with ``probes`` sign vectors, summed over
    channels. Positive where the prompt makes the probability more peaked: on a memorized pixel it leaves no freedom.
    All prompts share the signs. The graph of a forward is kept: choose ``batch`` by the memory that takes.
    """
    prompts = check_prompts(prompts)
    check_steps(sampling_steps, sampling_steps, (seed,))
    if probes < 1:
        raise ValueError(f"probes={probes}: needs at least one")
    shape = (probes, *adapter.noise(1, 0).shape[1:])
    signs, found = torch.randint(2, shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1, []
    for at in _last_step(adapter, prompts, sampling_steps, seed, batch, look=False):
        with torch.enable_grad():
            x = at.x.detach().requires_grad_()
            gap = adapter.conditional(x, at.sigma, at.cond) - adapter.conditional(x, at.sigma, adapter.empty(len(x)))
            diagonal = torch.zeros_like(x, dtype=torch.float32)
            for k, sign in enumerate(signs.to(x).unsqueeze(1)):
                (row,) = torch.autograd.grad(gap, x, sign.expand_as(x), retain_graph=k < probes - 1)
                diagonal += (sign * row).float() / probes
        found.append(adapter.grid(diagonal.detach()).sum(1).relu().cpu())
    return torch.cat(found)


PIXEL_MAPS = {"bright ending": ending_map, "difference": difference_map, "curvature": curvature_map}
