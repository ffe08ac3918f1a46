"""The check of pictures that come with prompts, before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

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
