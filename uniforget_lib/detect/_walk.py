"""What detectors share: a sampling, with the conditional and the empty prediction of every step.

Noise levels are the adapter's. For Stable Diffusion these are "trailing" ones, which begin at t = 999; the authors of the
detectors (but Webster) sample with "leading" ones, which begin at t = 981 for 50 steps and end at 1 instead of 19.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ..hooks import attention
from ..models.base import Cond, ModelAdapter, check_prompts


@dataclass(frozen=True)
class Step:
    """One step of one batch of prompts, without guidance: ``given`` and ``empty`` are dx/dsigma at ``x``."""

    index: int  # of the step
    part: slice  # of the prompts
    sigma: Tensor
    x: Tensor
    cond: Cond
    given: Tensor
    empty: Tensor
    maps: dict[str, Tensor] | None  # attention under the prompt, see `hooks.attention`; None unless asked for

    @property
    def gap(self) -> Tensor:
        """What the prompt changes, [n, ...]. It is that of the predicted clean latents, over minus sigma."""
        return self.given - self.empty


def check_steps(steps: int, sampling_steps: int, seeds: Sequence[int]) -> None:
    """Raises ValueError unless 1 <= steps <= sampling_steps and there is a seed."""
    if not 1 <= steps <= sampling_steps:
        raise ValueError(f"steps={steps}: needs 1 <= steps <= sampling_steps ({sampling_steps})")
    if not len(seeds):
        raise ValueError("seeds is empty; give at least one")


@torch.no_grad()
def walk(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    *,
    steps: int,
    sampling_steps: int,
    seed: int,
    batch: int,
    look: Collection[int] = (),
) -> Iterator[Step]:
    """The first ``steps`` of ``sampling_steps`` steps, batch by batch. Two denoiser forwards a step, no more.

    The next state is taken with the adapter's own guidance, from the two predictions at hand. ``look``: the steps
    whose attention is kept, that of the conditional forward.
    """
    prompts = check_prompts(prompts)
    cond, noise, sigmas = adapter.encode(prompts), adapter.noise(len(prompts), seed), adapter.sigmas(sampling_steps)
    for start in range(0, len(prompts), batch):
        part = slice(start, min(start + batch, len(prompts)))
        x, c = noise[part], cond[part]
        for k in range(steps):
            empty = adapter.conditional(x, sigmas[k], adapter.empty(len(x)))
            with attention(adapter) if k in look else nullcontext() as maps:
                given = adapter.conditional(x, sigmas[k], c)
            yield Step(k, part, sigmas[k], x, c, given, empty, maps)
            slope = given if adapter.cfg == 1 else empty + adapter.cfg * (given - empty)
            x = x + (sigmas[k + 1] - sigmas[k]) * slope


def norms(x: Tensor) -> Tensor:
    """Euclidean norm over all but the first dimension, in fp32 on the CPU: [n]."""
    return x.float().flatten(1).norm(dim=1).cpu()


def ending(adapter: ModelAdapter, at: Step, lengths: Tensor) -> Tensor:
    """Attention to the end token, mean over heads and the finest layers on the way down: [n, 1, rows, columns].

    The map of Bright Ending (Chen et al., ICLR 2025), in [0, 1]. The paper takes the first two layers of Stable
    Diffusion, 64 x 64. FLUX has one resolution; there all layers count. ``lengths``: tokens of each prompt, whose last
    one is the end token.
    """
    down = {name: m for name, m in at.maps.items() if not name.startswith(("mid_block", "up_blocks"))} or at.maps
    finest = max(m.shape[1] for m in down.values())
    chosen = torch.stack([m for m in down.values() if m.shape[1] == finest]).mean(0)  # [n, image, text]
    picked = chosen[torch.arange(len(chosen)), :, lengths.to(chosen.device) - 1]
    rows, columns = adapter.grid(at.x).shape[2:]
    shrink = round((rows * columns / finest) ** 0.5)
    return picked.view(len(picked), 1, rows // shrink, columns // shrink)
