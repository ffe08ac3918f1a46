"""Erased Stable Diffusion (Gandikota et al., ICCV 2023): for the forgotten prompt, predict the opposite of what it adds."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..models.base import ModelAdapter, check_prompts
from ..sampler import rollout
from ._training import check, train


def esd(
    adapter: ModelAdapter,
    forget: Sequence[str],
    *,
    variant: str = "x",
    eta: float = 1.0,
    steps: int = 200,
    lr: float = 5e-5,
    guidance: float = 3.0,
    sampling_steps: int = 50,
    seed: int = 0,
) -> ModelAdapter:
    """Train d(x, c) towards d0(x, "") - eta (d0(x, c) - d0(x, "")), d0 the frozen model, on states of its own sampling.

    A step takes one prompt and lets the frozen model sample to a random step with ``guidance``. The authors write the
    target as d0(x, c) - e (d0(x, c) - d0(x, "")), where our eta is e - 1: for Stable Diffusion 1.4 e = 2, eta = 1; their
    settings for SDXL are eta 0, guidance 2, lr 2e-4.

    Args:
        variant: ``x`` trains the attention to the prompt, ``u`` everything else (the authors: all linear and convolution
            layers of it).

    Raises ValueError for another variant, bad numbers, half precision; FloatingPointError when training diverges.
    """
    forget = check_prompts(forget)
    check(adapter, steps=steps, lr=lr, sampling_steps=sampling_steps)
    if variant not in ("x", "u"):
        raise ValueError(f"variant={variant!r}: use 'x' or 'u'")
    student, sigmas = adapter.clone(), adapter.sigmas(sampling_steps)
    with torch.no_grad():
        cond = adapter.encode(forget)

    def loss(generator: torch.Generator) -> torch.Tensor:
        k, i, noise = (
            int(torch.randint(high, (), generator=generator)) for high in (sampling_steps, len(forget), 10**6)
        )
        c = cond[[i]]
        with torch.no_grad(), adapter.guided(guidance):
            x = rollout(adapter.predict, adapter.noise(1, noise), sigmas[: k + 1], c)
            given, empty = adapter.conditional(x, sigmas[k], c), adapter.conditional(x, sigmas[k], adapter.empty(1))
        return (student.conditional(x, sigmas[k], c) - target(given, empty, eta)).float().pow(2).mean()

    which = "attention" if variant == "x" else "others"
    return train(student, loss, which=which, steps=steps, lr=lr, seed=seed, desc=f"ESD-{variant}")


def target(given: torch.Tensor, empty: torch.Tensor, eta: float) -> torch.Tensor:
    """What the student is to predict under the forgotten prompt."""
    return empty - eta * (given - empty)
