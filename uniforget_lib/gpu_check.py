"""Everything that only a GPU can show, in one command: ``python -m uniforget_lib.gpu_check --out report.json``.

Runs the checks below and, in a checkout of the repository, its benchmarks; writes one report with the card's name. Exits
with 0 if all passed, 1 if one did not, and 77 where no CUDA device is present.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from . import Report, UniForget, bake, detect, evaluate, load, locate, masked, provenance, shrink

NO_GPU = 77
PROMPTS = ["a cat on a blue ground", "a rocket left of a house on a pink ground", "a tree on a white ground", ""]
QUICK = UniForget(beta=0.5, steps=2, mask_steps=4, batch=2)
BENCH = Path(__file__).parents[1] / "tests" / "benchmarks" / "bench.py"


def _difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference over the largest entry of ``b``."""
    return float((a.float().cpu() - b.float().cpu()).abs().max() / b.float().abs().max().cpu())


def same_latents(cpu, gpu) -> tuple[float, float]:
    """Latents on the card against those on the CPU, fp32 (TF32 off)."""
    return _difference(gpu.latents(PROMPTS, steps=4), cpu.latents(PROMPTS, steps=4)), 1e-3


def half_precision(cpu, gpu) -> tuple[float, float]:
    """Latents in bf16 on the card against fp32 on the CPU: root mean squared, over theirs."""
    half = load("testbed", device="cuda", dtype=torch.bfloat16)
    a, b = half.latents(PROMPTS, steps=4).float().cpu(), cpu.latents(PROMPTS, steps=4)
    return float((a - b).pow(2).mean().sqrt() / b.pow(2).mean().sqrt()), 0.1


def same_risks(cpu, gpu) -> tuple[float, float]:
    """Every detector's risks on the card against those on the CPU: the worst one."""
    return max(_difference(d(gpu, PROMPTS[:3]), d(cpu, PROMPTS[:3])) for d in detect.DETECTORS.values()), 1e-2


def same_mask(cpu, gpu) -> tuple[float, float]:
    """Scores of four mask steps on the card against those on the CPU."""
    scores = [locate.uniforget(adapter, PROMPTS, QUICK).values for adapter in (gpu, cpu)]
    return max(_difference(scores[0][name], scores[1][name]) for name in scores[0]), 1e-2


def shrunk(cpu, gpu) -> tuple[float, float]:
    """Latents of the shrunk and of the baked model against the masked one, on the card, fp32."""
    mask = locate.random(gpu, kinds=("ffn", "head", "norm")).mask(ratio=0.35)
    with masked(gpu, mask):
        want = gpu.latents(PROMPTS, steps=2)
    return max(_difference(make(gpu, mask).latents(PROMPTS, steps=2), want) for make in (bake, shrink)), 1e-4


def memory_slope(cpu, gpu) -> tuple[float, float]:
    """Peak memory of one more checkpointed step of mask training, over the bytes of its latents. (1 in theory; the limit is
    a guess until a card has been seen.)"""
    peaks, latents = [], gpu.noise(2, 0)
    for steps in (2, 4, 8, 16):
        torch.cuda.reset_peak_memory_stats()
        locate.uniforget(gpu, PROMPTS, UniForget(steps=steps, mask_steps=1, batch=2, checkpoint=True))
        peaks.append(torch.cuda.max_memory_allocated())
    slope = np.polyfit((2, 4, 8, 16), peaks, 1)[0]
    return float(slope) / (latents.numel() * latents.element_size()), 8.0


def counted_graph(cpu, gpu) -> tuple[float, float]:
    """Memory that a forward through gates keeps on the card, against what `evaluate.graph` counts: relative difference."""
    gates = {s.name: torch.ones(s.units, device=gpu.device, requires_grad=True) for s in gpu.sites(("ffn",))}
    x, sigma, cond = gpu.noise(16, 0), gpu.sigmas(1)[0], gpu.encode(PROMPTS * 4)
    with masked(gpu, gates):
        before = torch.cuda.memory_allocated()
        out = gpu.conditional(x, sigma, cond)
        kept = torch.cuda.memory_allocated() - before - out.numel() * out.element_size()
    return abs(kept / (16 * evaluate.graph(gpu)) - 1), 0.5


def offloaded(cpu, gpu) -> tuple[float, float]:
    """Images of a pipeline whose text encoders and VAE wait on the CPU, against those of one that is whole on the card."""
    apart = load("testbed", device=gpu.device, offload=True)
    found = _difference(apart.images(PROMPTS, steps=2), gpu.images(PROMPTS, steps=2))
    waiting = (apart.pipe.text_encoder, apart.pipe.text_encoder_2, apart.pipe.vae)
    if any(part.device.type != "cpu" for part in waiting):
        raise RuntimeError("a part stayed on the card")
    return found, 1e-4


def stored_in_8_bits(cpu, gpu) -> tuple[float, float]:
    """Latents with weights stored in 8 bits against fp32 on the CPU: root mean squared, over theirs."""
    small = load("testbed", device=gpu.device, storage=torch.float8_e4m3fn)
    a, b = small.latents(PROMPTS, steps=4).float().cpu(), cpu.latents(PROMPTS, steps=4)
    return float((a - b).pow(2).mean().sqrt() / b.pow(2).mean().sqrt()), 0.1


CHECKS = (same_latents, half_precision, same_risks, same_mask, shrunk, memory_slope, counted_graph, offloaded,
          stored_in_8_bits)  # fmt: skip


def benchmark(report: Report, *options: str) -> int:
    """Run the benchmark, in a checkout of the repository, and add its rows to ``report``; the number of targets missed, or 1
    where it failed before its end."""
    if not BENCH.is_file():
        return 0
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "bench.json"
        command = [sys.executable, str(BENCH), "--device", torch.device(report.meta["device"].split()[0]).type]
        subprocess.run([*command, "--out", str(out), *options])
        if not out.is_file():
            return 1
        rows = json.loads(out.read_text())["rows"]
    for name, row in rows.items():
        report.add(check=name, **row)
    return sum(not row["passed"] for row in rows.values())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-report.json"))
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("gpu_check: no CUDA device is present; nothing was checked")
        return NO_GPU
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    report, failed = Report(provenance(seed=0, device="cuda")), 0
    cpu, gpu = load("testbed"), load("testbed", device="cuda")
    for check in CHECKS:
        begun = time.perf_counter()
        try:
            value, most = check(cpu, gpu)
            error = ""
        except Exception as caught:  # one that fails must not hide the others
            value, most, error = float("nan"), 0.0, repr(caught)
        passed = value <= most
        failed += not passed
        report.add(check=check.__name__, what=(check.__doc__ or "").strip(), value=value, at_most=most, passed=passed,
                   seconds=round(time.perf_counter() - begun, 1), error=error)  # fmt: skip
        print(
            f"{'ok    ' if passed else 'FAILED'} {check.__name__}: {value:.3g} (at most {most:g}) {error}", flush=True
        )
    failed += benchmark(report)
    print(f"report: {report.to_json(arguments.out)} ({report.meta['device']})")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
