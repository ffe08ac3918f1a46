"""What a mask costs on neutral prompts: detail, and agreement with the unmasked picture."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def detail(images: Tensor) -> np.ndarray:
    """High-frequency energy: mean squared Laplacian of the grey image. [n, 3, H, W] in [0, 1] -> [n]."""
    grey = images.float().mean(1, keepdim=True)
    kernel = grey.new_tensor([[0, -1, 0], [-1, 4, -1], [0, -1, 0]]).view(1, 1, 3, 3)
    return F.conv2d(grey, kernel).pow(2).flatten(1).mean(1).cpu().numpy()


def soften(images: Tensor, share: float) -> Tensor:
    """Images [n, 3, H, W] in [0, 1] blurred until their mean `detail` is ``share`` of what it was.

    The control for "the mask removes fine detail": an unpruned model's pictures with the same loss of detail, and
    nothing else. A Gaussian blur, the same for all images. Raises ValueError for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: needs a share of the detail, above 0 and at most 1")
    goal, low, high = share * float(detail(images).mean()), 0.0, 8.0
    for _ in range(20):  # detail falls with the width of the blur
        middle = (low + high) / 2
        low, high = (middle, high) if float(detail(_blur(images, middle)).mean()) > goal else (low, middle)
    return _blur(images, high)


def _blur(images: Tensor, sigma: float) -> Tensor:
    reach = max(1, round(3 * sigma))
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / max(sigma, 1e-3)) ** 2).to(images)
    line = (line / line.sum()).expand(images.shape[1], 1, 1, -1)
    x = F.pad(images, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(x, line, groups=images.shape[1]), line.transpose(2, 3), groups=images.shape[1])


def change(images: Tensor, reference: Tensor) -> np.ndarray:
    """Squared change of each image over the variance of the reference images: [n]; 0 = unchanged."""
    return ((images - reference).float().pow(2).flatten(1).mean(1) / reference.float().var()).cpu().numpy()
