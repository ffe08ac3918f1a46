"""Pictures that users bring: read from files, and checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .base import ModelAdapter, check_prompts


def check_pictures(adapter: ModelAdapter, images: Tensor, prompts: Sequence[str]) -> list[str]:
    """The prompts as a list. Raises ValueError unless there is one image [3, H, W] of the model's size, in [0, 1], for
    each."""
    prompts, size = check_prompts(prompts), [3, adapter.resolution, adapter.resolution]
    if list(images.shape) != [len(prompts), *size]:
        raise ValueError(f"images has shape {list(images.shape)}: {len(prompts)} prompts need [{len(prompts)}, "
                         f"{', '.join(map(str, size))}]")  # fmt: skip
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError(f"images lie in [{float(images.min()):.3g}, {float(images.max()):.3g}]: needs [0, 1]")
    return prompts


def read_picture(path: Path, size: int, where: str) -> np.ndarray:
    """uint8 [size, size, 3]: the central square, scaled; transparent parts become white.

    Raises FileNotFoundError or ValueError that begin with ``where``.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{where}: {path} is not there")
    try:
        image = Image.open(path).convert("RGBA")
    except (UnidentifiedImageError, OSError):
        raise ValueError(f"{where}: {path} is no picture") from None
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)).resize((size, size), Image.LANCZOS))
