"""What a mask costs on neutral prompts: detail, and agreement with the unmasked picture."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor


def detail(images: Tensor) -> np.ndarray:
    """High-frequency energy: mean squared Laplacian of the grey image. [n, 3, H, W] in [0, 1] -> [n]."""
    grey = images.float().mean(1, keepdim=True)
    kernel = grey.new_tensor([[0, -1, 0], [-1, 4, -1], [0, -1, 0]]).view(1, 1, 3, 3)
    return F.conv2d(grey, kernel).pow(2).flatten(1).mean(1).cpu().numpy()


def change(images: Tensor, reference: Tensor) -> np.ndarray:
    """Squared change of each image over the variance of the reference images: [n]; 0 = unchanged."""
    return ((images - reference).float().pow(2).flatten(1).mean(1) / reference.float().var()).cpu().numpy()
