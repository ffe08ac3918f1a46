"""Benchmarks: ratios measured side by side in one process, with intervals: ``python tests/benchmarks/bench.py``.

Two arms run in turn (ABBA), and the median of the paired ratios is reported with a bootstrap interval. A target is met
only if the worse end of the interval meets it. Nothing in the tests depends on these numbers; run them on an idle machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers.utils import logging
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import TINY, tiny_flux  # noqa: E402

from uniforget_lib import bake, count, detect, masked, provenance, record, rollout, shrink  # noqa: E402
from uniforget_lib.evaluate import flops, time_ratio  # noqa: E402
from uniforget_lib.locate import random  # noqa: E402
from uniforget_lib.locate.gradient import Pull  # noqa: E402
from uniforget_lib.locate.uniforget import backpropagate  # noqa: E402
from uniforget_lib.masks import hard_concrete  # noqa: E402
from uniforget_lib.models import FluxAdapter  # noqa: E402
from uniforget_lib.testbed.flow import FlowModel  # noqa: E402
from uniforget_lib.testbed.vae import build  # noqa: E402

PROMPTS = ["a cat on a blue ground", "a rocket left of a house on a pink ground"]
STEPS = 4


SIZES = {"cpu": {"heads": 16, "double": 2, "single": 4}, "cuda": {"heads": 96, "double": 3, "single": 6}}


def large(device: str) -> FluxAdapter:
    """A FLUX in which products of matrices, not Python, take the time: of width 512 with 256 image tokens in fp32; on a GPU
    of FLUX's own width, 3,072, with 1,024 image tokens in bf16."""
    torch.manual_seed(0)
    gpu = torch.device(device).type == "cuda"
    model, vae = FlowModel(**SIZES["cuda" if gpu else "cpu"]), build()
    vae.register_to_config(scaling_factor=1.0, shift_factor=0.0)
    for p in model.transformer.parameters():
        torch.nn.init.normal_(p, std=0.02)
    pipe = model.eval().pipeline(vae).to(device, torch.bfloat16 if gpu else torch.float32)
    return FluxAdapter(pipe, resolution=256 if gpu else 128)


def ratio(a: Callable, b: Callable, pairs: int) -> dict:
    """`time_ratio` as a row of the table."""
    found = time_ratio(a, b, pairs=pairs)
    return {"value": found.mean, "low": found.low, "high": found.high}


class Bench:
    """The model, its inputs, and one method a row of the table."""

    def __init__(self, device: str, pairs: int) -> None:
        self.device, self.pairs, self.adapter = device, pairs, large(device)
        self.x, self.sigmas = self.adapter.noise(2, 0), self.adapter.sigmas(STEPS)
        with torch.no_grad():
            self.cond = self.adapter.encode(PROMPTS)
        self.ones = {s.name: torch.ones(s.units, device=device) for s in self.adapter.sites(("ffn", "norm"))}

    def most(self, cpu: float, gpu: float) -> float:
        return gpu if str(self.device).startswith("cuda") else cpu

    def forward(self, adapter=None) -> Tensor:
        with torch.no_grad():
            return (adapter or self.adapter).conditional(self.x, self.sigmas[1], self.cond)

    def sample(self, adapter=None) -> Tensor:
        with torch.no_grad():
            return rollout((adapter or self.adapter).conditional, self.x, self.sigmas, self.cond)

    def step(self, checkpoint: bool | str, adapter=None, sigmas=None) -> Tensor:
        """One mask-training step without the optimiser; returns the gradient of the logits."""
        adapter, sigmas = adapter or self.adapter, self.sigmas if sigmas is None else sigmas
        x, cond = (self.x, self.cond) if adapter is self.adapter else (adapter.noise(2, 0), adapter.encode(PROMPTS))
        sites = adapter.sites(("ffn", "norm"))
        generator = torch.Generator().manual_seed(0)
        dtype = torch.promote_types(x.dtype, torch.float32)
        logits = torch.full((sum(s.units for s in sites),), 1.0, device=x.device, dtype=dtype, requires_grad=True)
        u = torch.rand(len(logits), generator=generator).to(logits)
        gates = dict(zip((s.name for s in sites), hard_concrete(logits, u).split([s.units for s in sites])))
        backpropagate(adapter, [gates], x, sigmas, cond, torch.zeros_like(x), checkpoint=checkpoint)
        return logits.grad

    def row_1(self):
        """Mask-training step with step checkpointing, over N plain forwards (at most 3.5)."""
        return ratio(lambda: self.step(True), self.sample, self.pairs) | {"at_most": self.most(3.5, 3.3)}

    def row_1_full(self):
        """The same with the full graph (2 in theory; nothing is asked)."""
        return ratio(lambda: self.step(False), self.sample, self.pairs)

    def row_2(self):
        """Bytes that one more step keeps, over those of its latents, with checkpointing (at most 1.2)."""
        kept = [self._kept(steps) for steps in (2, 4, 8, 16)]
        slope = np.polyfit([2, 4, 8, 16], kept, 1)[0]
        return {"value": float(slope / (self.x.numel() * self.x.element_size())), "at_most": 1.2}

    def _kept(self, steps: int) -> int:
        """Bytes alive between forward and backward: what autograd saved, and tensors that Python holds."""
        storages: dict[int, int] = {}

        def keep(t: Tensor) -> Tensor:
            storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        gates = {name: g.clone().requires_grad_() for name, g in self.ones.items()}
        sigmas = self.adapter.sigmas(steps)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t), masked(self.adapter, gates):
            image = rollout(self.adapter.conditional, self.x, sigmas, self.cond, checkpoint=True)
            for thing in gc.get_objects():
                if isinstance(thing, Tensor) and thing.device.type == self.x.device.type:
                    keep(thing)
            image.sum().backward()  # a hook that returns its tensor makes a cycle; this frees it for the next call
        return sum(storages.values())

    def row_3(self):
        """Relative error of the checkpointed gradient against the full graph's, fp32, tiny models of every family (at most
        1e-5)."""
        return {"value": max(self._recomputed(make()) for make in TINY.values()), "at_most": 1e-5}

    def row_3_fp64(self):
        """The same in fp64 (at most 1e-10)."""
        return {"value": max(self._recomputed(make(dtype=torch.float64)) for make in TINY.values()), "at_most": 1e-10}

    def _recomputed(self, tiny) -> float:
        full, *others = (self.step(c, tiny, tiny.sigmas(STEPS)) for c in (False, True, "block"))
        return max(float((other - full).norm() / full.norm()) for other in others)

    def row_4(self):
        """Forward under a mask, over a plain forward (at most 1.10)."""

        def hooked() -> None:
            with masked(self.adapter, self.ones):
                self.forward()

        return ratio(hooked, self.forward, self.pairs) | {"at_most": self.most(1.10, 1.05)}

    def row_5(self):
        """Sampling with the baked pipeline, over the original (1.00, give or take .02)."""
        baked = bake(self.adapter, random(self.adapter).mask(ratio=0.4))
        found = ratio(lambda: self.sample(baked), self.sample, 3 * self.pairs)  # a narrow target: more pairs
        return found | {"at_least": 0.98, "at_most": 1.02}

    def row_6(self):
        """Forward time of a model without 40 % of its ffn, over the original's, over their FLOP ratio (at most 1.25)."""
        small = shrink(self.adapter, random(self.adapter, kinds=("ffn",)).mask(ratio=0.4))
        share = flops(small) / flops(self.adapter)
        found = ratio(lambda: self.forward(small), self.forward, self.pairs)
        begun = time.perf_counter()
        self.forward().sum().item()  # waits for a GPU
        took = 1000 * (time.perf_counter() - begun)
        scaled = {k: v / share for k, v in found.items()}
        return scaled | {
            "at_most": self.most(1.25, 1.15),
            "note": f"time ratio {found['value']:.2f}; FLOP ratio {share:.2f}, the ceiling; a whole forward takes {took:.0f} ms",
        }

    def row_7(self):
        """Largest difference of baked and shrunk latents to masked ones, over their deviation, fp32, every family, emptied
        sites included (at most 1e-5)."""
        worst = 0.0
        for make in TINY.values():
            tiny = make()
            mask = random(tiny, kinds=("ffn", "head", "norm")).mask(ratio=0.35)
            for kind in ("ffn", "head", "norm"):
                for site in [s for s in tiny.sites() if s.kind == kind][:1]:
                    mask.values[site.name].zero_()
            with masked(tiny, mask):
                want = tiny.latents(PROMPTS, steps=2)
            for other in (bake(tiny, mask), shrink(tiny, mask, multiple=1)):
                worst = max(worst, float((other.latents(PROMPTS, steps=2) - want).abs().max() / want.std()))
        return {"value": worst, "at_most": 1e-5}

    def row_8(self):
        """Forward that records statistics, over a plain forward (at most 1.10)."""
        sites = self.adapter.sites(("ffn",))

        def recording() -> None:
            with record(self.adapter, sites):
                self.forward()

        return ratio(recording, self.forward, self.pairs) | {"at_most": self.most(1.10, 1.05)}

    def row_9(self):
        """Denoiser forwards a prompt of the gradient locator, ten prompts with ten noises of one step each (20 in theory)."""
        with count(tiny := tiny_flux()) as forwards:
            pull = Pull(tiny, PROMPTS * 5, steps=1, seed=0, batch=16, noises=10)
            pull({s.name: torch.ones(s.units) for s in tiny.sites()})
        assert pull.cost == forwards[0] + 100  # a backward counts as a forward
        return {"value": pull.cost / 10, "at_most": 22}

    def row_10(self):
        """Wen's detector with one step and noise, in forwards, over one generation of 8 steps (at most 2.2 / 8)."""
        with count(self.adapter) as forwards:
            detect.wen(self.adapter, PROMPTS)
        return {"value": forwards[0] / (8 * len(PROMPTS)), "at_most": 2.2 / 8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    rows = [name for name in vars(Bench) if name.startswith("row_")]
    parser.add_argument("--rows", nargs="+", default=rows, choices=rows)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    arguments = parser.parse_args()
    logging.set_verbosity_error()  # of modules to be kept in fp32, of which there are none
    if arguments.device == "cpu":
        torch.set_num_threads(2)
    bench, found, missed = Bench(arguments.device, arguments.pairs), {}, 0
    for name in arguments.rows:
        result = found[name] = getattr(bench, name)()
        low, high = result.get("low", result["value"]), result.get("high", result["value"])
        met = low >= result.get("at_least", -np.inf) and high <= result.get("at_most", np.inf)
        missed += not met
        result |= {"what": " ".join(getattr(Bench, name).__doc__.split()), "passed": bool(met)}
        word = ("met   " if met else "MISSED") if {"at_least", "at_most"} & result.keys() else "      "
        interval = f" [{low:.3g}, {high:.3g}]" if "low" in result else ""
        print(f"{word} {name:11} {result['value']:.3g}{interval}  {result['what']}"
              f" {result.get('note', '')}", flush=True)  # fmt: skip
    if arguments.out:
        meta = provenance(seed=0, device=arguments.device)
        arguments.out.write_text(json.dumps({"meta": meta, "rows": found}, indent=1))
    sys.exit(f"{missed} targets missed" if missed else 0)


if __name__ == "__main__":
    main()
