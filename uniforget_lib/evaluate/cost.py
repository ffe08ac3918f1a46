"""What a model costs: weights, work and time, and the most that pruning could save of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from ..hooks import masked
from .stats import Estimate

if TYPE_CHECKING:
    from ..models import ModelAdapter


def weights(adapter: ModelAdapter, kinds: Sequence[str] = ()) -> int:
    """Numbers that the denoiser holds; with ``kinds``, only those that units of these kinds can take along.

    Raises ValueError for value channels, which take none.
    """
    if not kinds:
        return sum(p.numel() for p in adapter.denoiser.parameters())
    total = 0.0
    for name, (rows, columns) in _shares(adapter, kinds).items():
        linear = adapter.denoiser.get_submodule(name)
        total += (1 - (1 - rows) * (1 - columns)) * linear.weight.numel()
        total += rows * (0 if linear.bias is None else linear.bias.numel())
    return round(total)


def flops(adapter: ModelAdapter, kinds: Sequence[str] = ()) -> int:
    """Floating point operations of one forward of the denoiser for one picture (a multiplication with its addition counts as
    two); with ``kinds``, those of the matrices that units of these kinds can leave, attention itself included.

    Counted by torch's FlopCounterMode, so only products of matrices, convolutions and attention; also works on the meta
    device, where nothing is computed. Raises ValueError for value channels.
    """
    x, sigma, cond = adapter.noise(1, 0), adapter.sigmas(1)[0], adapter.encode([""])  # encoders are not counted
    attention = sdpa_kernel(SDPBackend.MATH)  # the fused one of a CPU is not counted
    with torch.no_grad(), attention, FlopCounterMode(display=False) as counter:
        adapter.conditional(x, sigma, cond)
    if not kinds:
        return counter.get_total_flops()
    counts = {name.partition(".")[2]: sum(found.values()) for name, found in counter.get_flop_counts().items()}
    shares = _shares(adapter, kinds).items()
    total = sum((1 - (1 - rows) * (1 - columns)) * counts.get(name, 0) for name, (rows, columns) in shares)
    if "head" in kinds:
        for site in adapter.sites(("head",)):
            inside = sum(count for name, count in counts.items() if name.rpartition(".")[0] == site.name)
            total += counts[site.name] - inside - counts.get(f"{site.name}.to_out.0", 0)
    return round(total)


def evaluations(adapter: ModelAdapter, run: Callable[[], object]) -> int:
    """Rows that the denoiser sees while ``run()`` runs: a prompt under guidance is two a step."""
    rows = 0

    def count(module, args, kwargs) -> None:
        nonlocal rows
        rows += len(args[0] if args else kwargs["hidden_states"])

    handle = adapter.denoiser.register_forward_pre_hook(count, with_kwargs=True)
    try:
        run()
    finally:
        handle.remove()
    return rows


def _shares(adapter: ModelAdapter, kinds: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Linear -> the shares of its rows and of its columns that go when every unit of ``kinds`` goes."""
    if "value" in kinds:
        raise ValueError("kinds: value channels take no matrix along, see `shrink`; count ffn, head or norm")
    rows: dict[str, float] = {}
    columns: dict[str, float] = {}
    for site in adapter.sites(kinds):
        for refs, into, size in ((site.writers, rows, "out_features"), (site.readers, columns, "in_features")):
            for ref in refs:
                share = (ref.stop - ref.start) / getattr(adapter.denoiser.get_submodule(ref.linear), size)
                into[ref.linear] = into.get(ref.linear, 0) + share
    return {n: (rows.get(n, 0), columns.get(n, 0)) for n in rows.keys() | columns.keys()}


def graph(adapter: ModelAdapter, kinds: Sequence[str] = ("ffn",)) -> int:
    """Bytes that a backward pass to the gates of ``kinds`` needs of one forward for one picture, weights not counted: what
    mask training keeps for every picture and step, or with checkpointing of one step. Counted, not estimated; also on the
    meta device, where attention keeps what its fused kernels do: its inputs, its output and a number a row.
    """
    gates = {s.name: torch.ones(s.units, device=adapter.device, requires_grad=True) for s in adapter.sites(kinds)}
    own = {p.untyped_storage()._cdata for p in adapter.denoiser.parameters()}
    held: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            held[storage._cdata] = storage
        return tensor.detach()  # the tensor itself would make a cycle with the graph

    x, sigma, cond = adapter.noise(1, 0), adapter.sigmas(1)[0], adapter.encode([""])
    fused = _Fused() if adapter.device.type == "meta" else nullcontext()
    with torch.enable_grad(), masked(adapter, gates), fused, saved_tensors_hooks(keep, lambda tensor: tensor):
        adapter.conditional(x, sigma, cond)
    return sum(storage.nbytes() for storage in held.values())


class _Attention(torch.autograd.Function):
    """The shapes and the bookkeeping of a fused attention; no numbers, so no backward pass either."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        n, heads, tokens, _ = query.shape
        out = query.new_empty(n, tokens, heads, value.shape[-1]).transpose(1, 2)  # as the kernels lay it out
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out


class _Fused(TorchFunctionMode):
    """Every scaled dot product attention inside is an `_Attention`."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        named = dict(zip(("query", "key", "value"), args)) | (kwargs or {})
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(named["query"], named["key"], named["value"])
        return func(*args, **(kwargs or {}))


def time_ratio(a: Callable, b: Callable, *, pairs: int = 30, warm: int = 5) -> Estimate:
    """Median of time(a) / time(b) over pairs that run side by side, in turn (ABBA), with a 95 % bootstrap interval."""

    def wait() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def clock(f: Callable) -> float:
        wait()
        begun = time.perf_counter()
        f()
        wait()
        return time.perf_counter() - begun

    for f in (a, b) * warm:
        f()
    found = []
    for k in range(pairs):
        first, second = (a, b) if k % 2 else (b, a)
        one, other = clock(first), clock(second)
        found.append(one / other if k % 2 else other / one)
    draws = np.median(np.random.default_rng(0).choice(found, (2000, len(found))), axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(float(np.median(found)), float(low), float(high))
