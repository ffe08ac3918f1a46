"""From mask to model: `bake` writes a mask into the weights, so that sampling costs nothing extra."""

from __future__ import annotations

import copy

import torch

from .masks import Mask
from .models.base import ModelAdapter
from .sites import KINDS


@torch.no_grad()
def bake(adapter: ModelAdapter, mask: Mask) -> ModelAdapter:
    """A copy of ``adapter`` whose weights carry ``mask``; equal to ``masked(adapter, mask)`` up to rounding.

    Columns of readers are scaled; for norm sites rows and bias. The other components (VAE, text encoders) are shared
    with the original. Its pipeline saves with ``pipe.save_pretrained(path)``. Raises ValueError for another model's
    mask, and TypeError for a `Score`.
    """
    if not isinstance(mask, Mask):
        raise TypeError(f"mask is a {type(mask).__name__}; cut a score first: score.mask(ratio=0.1)")
    if mask.fingerprint != adapter.fingerprint:
        raise ValueError(f"this mask is for model {mask.fingerprint!r}, not for {adapter.fingerprint!r}")
    baked = copy.copy(adapter)
    baked.denoiser = copy.deepcopy(adapter.denoiser)
    parts = {name: getattr(adapter.pipe, name) for name in adapter.pipe.components}
    name = next(n for n, part in parts.items() if part is adapter.denoiser)
    baked.pipe = type(adapter.pipe)(**(parts | {name: baked.denoiser}))
    baked.pipe.set_progress_bar_config(disable=True)
    for site in adapter.sites(KINDS):
        if site.name not in mask.values:
            continue
        for ref in site.masked_refs:
            linear = baked.denoiser.get_submodule(ref.linear)
            gate = mask.values[site.name].repeat_interleave(site.width).to(linear.weight.device, linear.weight.dtype)
            if site.kind == "norm":
                linear.weight[ref.start : ref.stop] *= gate[:, None]
                if linear.bias is not None:
                    linear.bias[ref.start : ref.stop] *= gate
            else:
                linear.weight[:, ref.start : ref.stop] *= gate
    return baked
