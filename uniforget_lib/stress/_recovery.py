"""What attacks share: their result, and checks of what they are given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..models._pictures import check_pictures
from ..models.base import ModelAdapter


@dataclass
class Recovery:
    """What an attack brought back.

    Attributes:
        efforts: how many optimiser steps had been made (of `paraphrase`: variants tried), in rising order; 0 is before the
            attack.
        images: for each effort, what is drawn then: [seeds, n, 3, H, W] in [0, 1].
        losses: mean training loss of every step.
    """

    efforts: list[int] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def check_targets(adapter: ModelAdapter, images: Tensor, prompts: Sequence[str], **counts: float) -> list[str]:
    """The prompts as a list. Raises ValueError unless there is one image of the model's size, in [0, 1], for each, and for
    numbers that are not positive."""
    prompts = check_pictures(adapter, images, prompts)
    for name, value in counts.items():
        if not value > 0:
            raise ValueError(f"{name}={value}: must be positive")
    return prompts


def check_loss(value: float, attack: str, step: int, lr: float) -> float:
    """``value``. Raises FloatingPointError when it is no number: an attack that diverged is no resistance."""
    if not math.isfinite(value):
        raise FloatingPointError(f"{attack}: the loss of step {step + 1} is {value}; lower lr={lr}")
    return value


def check_efforts(efforts: Sequence[int]) -> list[int]:
    """``efforts``, sorted, each once. Raises ValueError for none at all and for a negative one."""
    efforts = sorted(set(efforts))
    if not efforts or efforts[0] < 0:
        raise ValueError(f"efforts={efforts}: give numbers of steps, 0 or more")
    return efforts
