"""From mask to model: `bake` writes a mask into the weights, `shrink` takes the removed units out of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .files import write_bytes
from .masks import Mask
from .models import quiet
from .models.base import ModelAdapter
from .models.shrunk import STATE, KeptRows, describe, replace
from .sites import KINDS, Site


def _check(adapter: ModelAdapter, mask: Mask) -> None:
    if not isinstance(mask, Mask):
        raise TypeError(f"mask is a {type(mask).__name__}; cut a score first: score.mask(ratio=0.1)")
    if mask.fingerprint != adapter.fingerprint:
        raise ValueError(f"this mask is for model {mask.fingerprint!r}, not for {adapter.fingerprint!r}; locate again on this "
                         "model (one that was shrunk is another model)")  # fmt: skip


@torch.no_grad()
def bake(adapter: ModelAdapter, mask: Mask) -> ModelAdapter:
    """A copy of ``adapter`` whose weights carry ``mask``; equal to ``masked(adapter, mask)`` up to rounding.

    Columns of readers are scaled; for norm sites rows and bias. The other components (VAE, text encoders) are shared
    with the original. Its pipeline saves with ``pipe.save_pretrained(path)``. Raises ValueError for another model's
    mask, and TypeError for a `Score`.
    """
    _check(adapter, mask)
    baked = adapter.clone()
    for site in adapter.sites(KINDS):
        if site.name not in mask.values:
            continue
        for ref in site.masked_refs:
            linear = baked.denoiser.get_submodule(ref.linear)
            gate = mask.values[site.name].repeat_interleave(site.width).to(linear.weight.device, linear.weight.dtype)
            if not site.readers:
                if isinstance(linear, KeptRows):  # of a norm that was shrunk before: its weight has the kept rows only
                    rows, gate = slice(None), gate[linear.rows]
                else:
                    rows = slice(ref.start, ref.stop)
                linear.weight[rows] *= gate[:, None]
                if linear.bias is not None:
                    linear.bias[rows] *= gate
            else:
                linear.weight[:, ref.start : ref.stop] *= gate
    return baked


def shrink(adapter: ModelAdapter, mask: Mask, *, multiple: int | None = None) -> ModelAdapter:
    """A copy of ``adapter`` without the units that ``mask`` removes: a smaller model, equal to ``masked(adapter, mask)``.

    Feed-forward neurons and attention heads leave every matrix that reads or writes them; of an adaptive norm only the
    rows that are kept are computed. All sites of a fused layer are taken out together.

    Args:
        multiple: feed-forward widths are rounded up to a multiple of it, with neurons that nothing reads (their columns
            are 0): 8 on a CPU, 64 on a GPU unless given. An emptied feed-forward site keeps so many dead neurons, an
            emptied attention one dead head.

    Save it with `save`; `load` reads it back. Raises ValueError for another model's mask and for one of
    value channels, which leave no matrix smaller without their head.
    """
    _check(adapter, mask)
    multiple = multiple or (64 if adapter.device.type == "cuda" else 8)
    sites = {s.name: s for s in adapter.sites(KINDS)}
    if any(sites[name].kind == "value" for name in mask.values):
        raise ValueError("shrink removes ffn, head and norm units; bake a mask of value channels instead")
    small = bake(adapter, mask)
    small.__dict__.pop("fingerprint")  # another architecture
    keep = {}
    for name, gates in mask.values.items():
        alive = gates.to(torch.bool)
        least = int(alive.sum())
        if sites[name].kind == "ffn":
            least = min(len(gates), max(multiple, -(-least // multiple) * multiple))
        elif sites[name].kind == "head":
            least = max(1, least)
        # stable: kept units first, then dead ones, then all of them in their order
        keep[name] = (~alive).int().argsort(stable=True)[:least].sort().values
    _take_out(small.denoiser, [sites[name] for name in keep], keep)
    return small


@torch.no_grad()
def _take_out(denoiser: nn.Module, sites: Sequence[Site], keep: dict[str, Tensor]) -> None:
    """Replace every Linear that a site reads or writes by one that has only the kept channels (in place)."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def drop(into: dict[str, Tensor], linear: str, size: int, start: int, channels: Tensor, units: int) -> None:
        mine = into.setdefault(linear, torch.ones(size, dtype=torch.bool))
        mine[start : start + units] = False
        mine[start + channels] = True

    for site in sites:
        units = keep[site.name]
        if site.kind == "norm":
            for ref in site.writers:
                _keep_rows(denoiser, ref.linear, units)
            continue
        channels = (units[:, None] * site.width + torch.arange(site.width)).flatten()
        for refs, into, size in ((site.readers, inputs, "in_features"), (site.writers, outputs, "out_features")):
            for ref in refs:
                total = getattr(denoiser.get_submodule(ref.linear), size)
                drop(into, ref.linear, total, ref.start, channels, site.units * site.width)
        if site.kind == "head":
            denoiser.get_submodule(site.name).heads = len(units)
    for name in inputs.keys() | outputs.keys():
        old = denoiser.get_submodule(name)
        rows, columns = (kept.get(name, torch.ones(size, dtype=torch.bool)).to(old.weight.device)
                         for kept, size in ((outputs, old.out_features), (inputs, old.in_features)))  # fmt: skip
        new = nn.Linear(int(columns.sum()), int(rows.sum()), bias=old.bias is not None, device=old.weight.device,
                        dtype=old.weight.dtype)  # fmt: skip
        new.weight.copy_(old.weight[rows][:, columns])
        if old.bias is not None:
            new.bias.copy_(old.bias[rows])
        replace(denoiser, name, new)


def _keep_rows(denoiser: nn.Module, name: str, rows: Tensor) -> None:
    old = denoiser.get_submodule(name)
    rows = rows.to(old.weight.device)
    if isinstance(old, KeptRows):  # shrunk before: what it has no row for stays 0
        held = torch.isin(old.rows, rows)
        rows, mine = old.rows[held], held
    else:
        mine = rows
    new = KeptRows(old.in_features, old.out_features, rows, old.bias is not None).to(old.weight)
    new.weight.copy_(old.weight[mine])
    if old.bias is not None:
        new.bias.copy_(old.bias[mine])
    replace(denoiser, name, new)


def save(adapter: ModelAdapter, path: str | Path) -> None:
    """Save a pipeline, baked, unlearned or shrunk, in safetensors; `load` reads it back.

    A plain pipeline reads it too, but for the denoiser of a shrunk one: its sizes are in ``uniforget.json``, with the
    fingerprint of the model that masks must be for.
    """
    if adapter.storage is not None:
        raise ValueError(
            f"the weights are stored as {adapter.storage}, rounded: save the pipeline loaded without storage="
        )
    path = Path(path)
    with quiet():
        adapter.pipe.save_pretrained(path, safe_serialization=True)
    state = {"fingerprint": adapter.fingerprint} | describe(adapter.denoiser)
    write_bytes(path / STATE, json.dumps(state, indent=1).encode())
