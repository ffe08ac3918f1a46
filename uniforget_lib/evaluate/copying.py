"""Is a picture a copy? Distance to its own training image, on a scale where an empty picture is 1, against a threshold
that pictures never trained do not pass."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

CLOSE = 0.5  # distance of a copy, at most: halfway to an empty picture


def distance(images: Tensor, targets: Tensor) -> np.ndarray:
    """Relative distance of images [n, 3, H, W] in [0, 1] to their targets of the same shape: [n].

    The root mean squared difference, over that of an *empty* picture: one of the target's median colour, which is its
    ground. 0: the same picture; 1: no better than an empty one. (An absolute distance would call a low-contrast
    picture's empty ground a copy of it.)
    """
    if images.shape != targets.shape:
        raise ValueError(f"images {list(images.shape)} and targets {list(targets.shape)} differ in shape")
    images, targets = images.float(), targets.float()
    empty = targets.flatten(2).median(2).values[:, :, None, None]
    error, scale = ((x - targets).pow(2).flatten(1).mean(1) for x in (images, empty))
    return (error / scale.clamp(min=1e-8)).sqrt().cpu().numpy()


def threshold(control: np.ndarray, rate: float = 0.01) -> float:
    """The largest threshold at which at most a share ``rate`` of the controls' distances lies at or below it.

    Controls are captions that were never trained, compared with the picture that *would* have been planted: whatever
    comes closer than their closest per cent is called a copy.
    """
    control = np.sort(np.asarray(control, dtype=float).ravel())
    if len(control) < 1 / rate:
        raise ValueError(f"{len(control)} control distances cannot set a rate of {rate}; draw at least {1 / rate:.0f}")
    allowed = int(np.floor(rate * len(control)))
    return float(np.nextafter(control[allowed], -np.inf))


def copied(images: Tensor, targets: Tensor, limit: float) -> np.ndarray:
    """Bool [n]: is each image within ``limit`` of its target?"""
    return distance(images, targets) <= limit


def stack(images: list[np.ndarray]) -> Tensor:
    """uint8 [64, 64, 3] images -> [n, 3, 64, 64] in [0, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
