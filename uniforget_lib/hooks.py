"""Hooks that leave no trace: masking and recording as context managers. Weights are never touched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .masks import Mask
from .sites import Site

if TYPE_CHECKING:
    from .models.base import ModelAdapter


def _scales(adapter: ModelAdapter, gates: dict[str, Tensor]) -> dict[tuple[str, str], Tensor]:
    """(Linear name, "input" | "output") -> one factor a channel. Fused layers collect the gates of all their sites."""
    sites = {s.name: s for s in adapter.sites()}
    unknown = sorted(gates.keys() - sites.keys())
    if unknown:
        raise ValueError(f"mask names sites that this model does not have: {unknown[:3]} ...")
    slices: dict[tuple[str, str], list[tuple[int, int, Tensor]]] = {}
    for name, gate in gates.items():
        site = sites[name]
        if gate.shape != (site.units,):
            raise ValueError(f"mask of site {name!r} has shape {list(gate.shape)}, the site has {site.units} units")
        factor = gate.repeat_interleave(site.width)
        side = "output" if site.kind == "norm" else "input"
        for ref in site.masked_refs:
            slices.setdefault((ref.linear, side), []).append((ref.start, ref.stop, factor))
    scales = {}
    for (linear, side), parts in slices.items():
        module = adapter.denoiser.get_submodule(linear)
        size = module.in_features if side == "input" else module.out_features
        pieces, at = [], 0
        for start, stop, factor in sorted(parts, key=lambda p: p[0]):
            pieces += [factor.new_ones(start - at), factor]
            at = stop
        pieces.append(pieces[-1].new_ones(size - at))
        scales[linear, side] = torch.cat(pieces).to(module.weight.device, module.weight.dtype)
    return scales


@contextmanager
def masked(adapter: ModelAdapter, mask: Mask | dict[str, Tensor]) -> Iterator[ModelAdapter]:
    """Scale the units of ``adapter`` by ``mask`` inside the ``with`` block.

    Args:
        mask: a `Mask` (refused with ValueError if it is for another model), or gates by site name, through which
            gradients flow.
    """
    if isinstance(mask, Mask):
        if mask.fingerprint != adapter.fingerprint:
            raise ValueError(f"this mask is for model {mask.fingerprint!r}, not for {adapter.fingerprint!r}; "
                             "locate again on this model")  # fmt: skip
        mask = mask.values
    handles = []
    try:
        for (linear, side), scale in _scales(adapter, mask).items():
            module = adapter.denoiser.get_submodule(linear)
            if side == "input":
                handle = module.register_forward_pre_hook(lambda m, args, s=scale: (args[0] * s, *args[1:]))
            else:
                handle = module.register_forward_hook(lambda m, args, out, s=scale: out * s)
            handles.append(handle)
        yield adapter
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def record(adapter: ModelAdapter, sites: list[Site]) -> Iterator[dict[str, Tensor]]:
    """Mean squared activation of every unit over all forwards inside the block: site name -> [units], filled at exit.

    A unit with several readers is averaged over them.
    """
    totals = {s.name: torch.zeros(s.units, dtype=torch.float64) for s in sites}
    counts = dict.fromkeys(totals, 0)
    result: dict[str, Tensor] = {}

    def add(site: Site, start: int, stop: int, x: Tensor) -> None:
        x = x.detach()[..., start:stop].float().reshape(-1, site.units, site.width)
        totals[site.name] += x.pow(2).mean(-1).sum(0).double().cpu()
        counts[site.name] += len(x)

    handles = []
    try:
        for site in sites:
            for ref in site.masked_refs:
                module: nn.Module = adapter.denoiser.get_submodule(ref.linear)
                if site.kind == "norm":
                    hook = lambda m, args, out, s=site, r=ref: add(s, r.start, r.stop, out)  # noqa: E731
                    handles.append(module.register_forward_hook(hook))
                else:
                    hook = lambda m, args, s=site, r=ref: add(s, r.start, r.stop, args[0])  # noqa: E731
                    handles.append(module.register_forward_pre_hook(hook))
        yield result
    finally:
        for handle in handles:
            handle.remove()
        result.update({n: (t / max(counts[n], 1)).float() for n, t in totals.items()})
