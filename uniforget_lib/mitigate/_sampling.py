"""What mitigations share: checks of what they are given, and a sampling whose slope each makes itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral

import torch
from torch import Tensor

from ..models.base import ModelAdapter, check_prompts
from ..sampler import Predict, rollout


def check_sampling(adapter: ModelAdapter, prompts: Sequence[str], *, steps: int, batch: int) -> list[str]:
    """The prompts as a list. Raises ValueError for none and for numbers that cannot be sampled with, TypeError for no
    strings."""
    prompts = check_prompts(prompts)
    check_counts(1, steps=steps, batch=batch)
    adapter.sigmas(steps)  # its own limits
    return prompts


def check_counts(low: int, **values: int) -> None:
    """Raises ValueError for what is not a whole number, or is below ``low``."""
    for name, value in values.items():
        if not isinstance(value, Integral) or value < low:
            raise ValueError(f"{name}={value}: needs a whole number, {low} or more")


def check_range(low: float, high: float, **values: float) -> None:
    """Raises ValueError for a number outside of [low, high], and for one that is not a number."""
    for name, value in values.items():
        if not low <= value <= high:
            raise ValueError(f"{name}={value}: needs a number in [{low:g}, {high:g}]")


def parts(n: int, batch: int) -> list[slice]:
    """The rows 0 to n - 1 in pieces of at most ``batch``."""
    return [slice(i, min(i + batch, n)) for i in range(0, n, batch)]


def sample(adapter: ModelAdapter, n: int, start: Callable[[], Predict], *, steps: int, seed: int,
           batch: int) -> Tensor:  # fmt: skip
    """Images [n, 3, H, W] in [0, 1], on the CPU in fp32, from the noise of ``adapter.images``.

    ``start()`` begins a batch: it returns its ``predict(x, sigma, part) -> dx/dsigma``, ``part`` the batch's rows of n.
    """
    x, sigmas, found = adapter.noise(n, seed), adapter.sigmas(steps), []
    with torch.no_grad():
        for part in parts(n, batch):
            z = rollout(start(), x[part], sigmas, part)
            found.append(adapter.decode(z).float().cpu())
    return torch.cat(found)
