"""What a model costs: weights, work and time, and the most that pruning could save of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from .stats import Estimate

if TYPE_CHECKING:
    from ..models import ModelAdapter


def weights(adapter: ModelAdapter, kinds: Sequence[str] = ()) -> int:
    """Numbers that the denoiser holds; with ``kinds``, only those that units of these kinds can take along."""
    if not kinds:
        return sum(p.numel() for p in adapter.denoiser.parameters())
    total = 0
    for name, share in _shares(adapter, kinds).items():
        linear = adapter.denoiser.get_submodule(name)
        total += round(share * sum(p.numel() for p in linear.parameters(recurse=False)))
    return total


def flops(adapter: ModelAdapter, kinds: Sequence[str] = ()) -> int:
    """Floating point operations of one forward of the denoiser for one picture (a multiplication with its addition counts as
    two); with ``kinds``, those of the matrices that units of these kinds can leave, attention itself included.

    Counted by torch's FlopCounterMode, so only products of matrices, convolutions and attention; also works on the meta
    device, where nothing is computed.
    """
    x, sigmas = adapter.noise(1, 0), adapter.sigmas(1)
    attention = sdpa_kernel(SDPBackend.MATH)  # the fused one of a CPU is not counted
    with torch.no_grad(), attention, FlopCounterMode(display=False) as counter:
        adapter.conditional(x, sigmas[0], adapter.encode([""]))
    if not kinds:
        return counter.get_total_flops()
    counts = {name.partition(".")[2]: sum(found.values()) for name, found in counter.get_flop_counts().items()}
    total = sum(share * counts.get(name, 0) for name, share in _shares(adapter, kinds).items())
    if "head" in kinds:
        for site in adapter.sites(("head",)):
            inside = sum(count for name, count in counts.items() if name.rpartition(".")[0] == site.name)
            total += counts[site.name] - inside - counts.get(f"{site.name}.to_out.0", 0)
    return round(total)


def _shares(adapter: ModelAdapter, kinds: Sequence[str]) -> dict[str, float]:
    """Linear -> the share of it that goes when every unit of ``kinds`` goes: rows and columns."""
    rows: dict[str, float] = {}
    columns: dict[str, float] = {}
    for site in adapter.sites(kinds):
        for refs, into, size in ((site.writers, rows, "out_features"), (site.readers, columns, "in_features")):
            for ref in refs:
                share = (ref.stop - ref.start) / getattr(adapter.denoiser.get_submodule(ref.linear), size)
                into[ref.linear] = into.get(ref.linear, 0) + share
    return {n: 1 - (1 - rows.get(n, 0)) * (1 - columns.get(n, 0)) for n in rows.keys() | columns.keys()}


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
