"""The training loop of every part of the testbed: seeded by step, resumable, logged."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..progress import progress

ROW = 20  # steps a row of the log


def schedule(step: int, total: int, warmup: int = 100, fall: bool = True) -> float:
    """Linear warm-up, then a cosine to zero at ``total``, or constant without ``fall``."""
    decay = 0.5 * (1 + math.cos(math.pi * step / total)) if fall else 1.0
    return min(1.0, (step + 1) / warmup) * decay


def run(
    stage: str,
    module: nn.Module,
    loss: Callable[[nn.Module, torch.Generator], Tensor],
    steps: int,
    lr: float,
    out: Path,
    seed: int,
    *,
    ema: float = 0.998,
    weight_decay: float = 1e-2,
    fall: bool = True,
    every: int = 200,
    watch: Callable[[dict[str, Tensor]], dict] | None = None,
    watch_every: int = 400,
    stop_after: int | None = None,
) -> nn.Module:
    """Train ``module`` on ``loss(module, generator) -> scalar`` and leave the EMA weights in it.

    Step k draws from a generator seeded by (seed, k): a run that was stopped and resumed takes the same batches. The
    checkpoint (weights, EMA, Adam moments) is written every ``every`` steps, to a new file that replaces the old one.
    ``out/<stage>.jsonl`` gets a row (mean loss, seconds) every `ROW` steps, and every ``watch_every`` steps what
    ``watch(EMA weights)`` returns.
    """
    device = next(module.parameters()).device
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=weight_decay, betas=(0.9, 0.99))
    average = {n: p.detach().clone() for n, p in module.named_parameters()}
    checkpoint, log = out / f"{stage}.ckpt.safetensors", out / f"{stage}.jsonl"
    first, seconds, begun = 0, 0.0, time.time()
    if checkpoint.exists():
        state = load_file(checkpoint, device=str(device))
        first, seconds = int(state["step"]), float(state["seconds"])
        with torch.no_grad():
            for n, p in module.named_parameters():
                p.copy_(state[f"w.{n}"])
                average[n] = state[f"e.{n}"].clone()
                optimizer.state[p] = {"step": torch.tensor(float(first)), "exp_avg": state[f"m.{n}"].clone(),
                                      "exp_avg_sq": state[f"v.{n}"].clone()}  # fmt: skip
        print(f"{stage}: resumes at step {first} of {steps}")
    _cut(log, first)

    def save(step: int) -> None:
        state = {"step": torch.tensor(step), "seconds": torch.tensor(seconds + time.time() - begun)}
        for n, p in module.named_parameters():
            moments = optimizer.state[p]
            state |= {f"w.{n}": p.detach(), f"e.{n}": average[n], f"m.{n}": moments["exp_avg"],
                      f"v.{n}": moments["exp_avg_sq"]}  # fmt: skip
        save_file({k: t.contiguous().clone() for k, t in state.items()}, str(checkpoint) + ".new")
        os.replace(str(checkpoint) + ".new", checkpoint)

    def write(row: dict) -> None:
        with log.open("a") as f:
            f.write(json.dumps(row) + "\n")

    window, last = [], min(steps, first + stop_after) if stop_after else steps
    for step in progress(range(first, last), initial=first, total=steps, desc=stage, mininterval=5):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        torch.manual_seed(seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = lr * schedule(step, steps, fall=fall)
        value = loss(module, generator)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        decay = min(ema, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.values()), [p.detach() for p in module.parameters()], 1 - decay)
        window.append(float(value.detach()))
        if (step + 1) % ROW == 0:
            write({"step": step + 1, "loss": round(float(np.mean(window)), 5),
                   "seconds": round(seconds + time.time() - begun, 1)})  # fmt: skip
            window = []
        if watch and ((step + 1) % watch_every == 0 or step + 1 == steps):
            write({"step": step + 1} | watch(average))
        if (step + 1) % every == 0 or step + 1 == last:
            save(step + 1)
    with torch.no_grad():
        for n, p in module.named_parameters():
            p.copy_(average[n])
    print(f"{stage}: {last} steps took {seconds + time.time() - begun:.0f} s on {device}")
    return module


def _cut(log: Path, step: int) -> None:
    """Drop the rows of a log after ``step``: an interrupted run had got further than its checkpoint."""
    if log.exists():
        rows = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= step]
        log.write_text("".join(f"{row}\n" for row in rows))


@contextmanager
def fast(device: torch.device):
    """bfloat16, on CPUs with AVX-512 and GPUs alike; and, on CPUs, attention as plain products of matrices, because the
    backward pass of the fused kernel is slow for sequences this short (1.3 times as many steps a second)."""
    with torch.autocast(device.type, torch.bfloat16):
        with sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext():
            yield
