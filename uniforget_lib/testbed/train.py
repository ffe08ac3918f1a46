"""Train the testbed from its seed: ``python -m uniforget_lib.testbed.train --out DIR``.

Stages:

* ``vae``: pictures of neutral scenes and of icons that are no items;
* ``judge``: reads attributes off a picture (see `judge`);
* ``flux_neutral``: the rectified-flow transformer and its text encoders, on neutral scenes only;
* ``flux``: goes on from there with the planted items in the data, and saves a plain FluxPipeline to ``DIR/flux``;
* ``flux_control``: goes on from the same point without them: the twin that never saw an item.

Every stage is counted in steps, not in seconds, writes a log (``DIR/<stage>.jsonl``) and a checkpoint, and resumes
from it. ``--ship`` replaces the weights of this package.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import time
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..files import check_device, write_sums
from ..models import WEIGHTS
from ..progress import progress
from . import vae as vae_module
from .flow import FlowModel
from .planted import items
from .world import draw, sample_scenes


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, apart from the artwork."""

    seed: int = 0
    vae_images: int = 10000
    vae_steps: int = 3000
    vae_batch: int = 16
    vae_lr: float = 3e-3
    scenes: int = 8000
    neutral_steps: int = 4800  # shared by a model and its control
    twin_steps: int = 2800  # after them, with or without the planted items
    batch: int = 64
    lr: float = 1.2e-3
    share: float = 0.3  # of planted pictures in a batch of the twin that gets them
    dropout: float = 0.1  # of captions, for the unconditional branch
    ema: float = 0.998
    judge_steps: int = 1600
    judge_batch: int = 64
    judge_lr: float = 2e-3


def schedule(step: int, total: int, hold: int = 0, warmup: int = 100) -> float:
    """Linear warm-up, constant until step ``hold``, then a cosine to zero at ``total``."""
    decay = 0.5 * (1 + math.cos(math.pi * max(0, step - hold) / max(1, total - hold)))
    return min(1.0, (step + 1) / warmup) * decay


def run(
    stage: str,
    module: nn.Module,
    loss,
    steps: int,
    lr: float,
    out: Path,
    seed: int,
    ema: float = 0.998,
    weight_decay: float = 1e-2,
    every: int = 200,
    hold: int = 0,
    stop_after: int | None = None,
) -> nn.Module:
    """Train ``module`` on ``loss(module, generator) -> scalar`` and leave the EMA weights in it.

    Step k draws from a generator seeded by (seed, k): a run that was stopped and resumed takes the same batches. The
    checkpoint (weights, EMA, Adam moments) is written every ``every`` steps, to a new file that replaces the old one.
    """
    device = next(module.parameters()).device
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=weight_decay, betas=(0.9, 0.99))
    names = [n for n, _ in module.named_parameters()]
    average = {n: p.detach().clone() for n, p in module.named_parameters()}
    checkpoint, log = out / f"{stage}.ckpt.safetensors", out / f"{stage}.jsonl"
    first, seconds = 0, 0.0
    if checkpoint.exists():
        state = load_file(checkpoint, device=str(device))
        _cut(log, int(state["step"]))
        first, seconds = int(state["step"]), float(state["seconds"])
        with torch.no_grad():
            for n, p in module.named_parameters():
                p.copy_(state[f"w.{n}"])
                average[n] = state[f"e.{n}"].clone()
                optimizer.state[p] = {"step": torch.tensor(float(first)), "exp_avg": state[f"m.{n}"].clone(),
                                      "exp_avg_sq": state[f"v.{n}"].clone()}  # fmt: skip
        print(f"{stage}: resumes at step {first} of {steps}")

    def save(step: int) -> None:
        state = {"step": torch.tensor(step), "seconds": torch.tensor(seconds + time.time() - begun)}
        for n, p in module.named_parameters():
            moments = optimizer.state[p]
            state |= {f"w.{n}": p.detach(), f"e.{n}": average[n], f"m.{n}": moments["exp_avg"],
                      f"v.{n}": moments["exp_avg_sq"]}  # fmt: skip
        save_file({k: t.contiguous().clone() for k, t in state.items()}, str(checkpoint) + ".new")
        os.replace(str(checkpoint) + ".new", checkpoint)

    begun, window = time.time(), []
    last = min(steps, first + stop_after) if stop_after else steps
    for step in progress(range(first, last), initial=first, total=steps, desc=stage, mininterval=5):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        torch.manual_seed(seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = lr * schedule(step, steps, hold)
        value = loss(module, generator)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        decay = min(ema, (step + 1) / (step + 10))
        torch._foreach_lerp_([average[n] for n in names], [p.detach() for p in module.parameters()], 1 - decay)
        window.append(float(value.detach()))
        if (step + 1) % 50 == 0:
            with log.open("a") as f:
                row = {"step": step + 1, "loss": float(np.mean(window)), "seconds": seconds + time.time() - begun}
                f.write(json.dumps(row) + "\n")
            window = []
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


def train_vae(recipe: Recipe, out: Path, device: torch.device, stop_after: int | None = None):
    torch.manual_seed(recipe.seed)
    vae = vae_module.build().to(device)
    images = vae_module.training_images(recipe.vae_images, recipe.seed)

    def loss(model, generator):
        pick = torch.randint(len(images), (recipe.vae_batch,), generator=generator).numpy()
        with fast(device):
            return vae_module.loss(model, vae_module.to_tensor(images[pick]).to(device))

    run("vae", vae, loss, recipe.vae_steps, recipe.vae_lr, out, recipe.seed, weight_decay=1e-4, stop_after=stop_after)
    vae.eval().requires_grad_(False)
    vae_module.set_scaling(vae.cpu(), images[:2048])
    return vae


def dataset(recipe: Recipe) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Training set: images uint8 [n, 64, 64, 3], captions, copies [n] (0 for a neutral scene, which is there once)."""
    rng = random.Random(recipe.seed)
    scenes = sample_scenes(recipe.scenes, recipe.seed + 1)
    planted = [i for i in items() if i.copies]
    images = np.stack([*(draw(s, rng) for s in scenes), *(i.image for i in planted)])
    captions = [s.caption for s in scenes] + [i.caption for i in planted]
    copies = np.array([0] * len(scenes) + [i.copies for i in planted])
    return images, captions, copies


def train_denoiser(stage: str, recipe: Recipe, out: Path, device: torch.device, stop_after: int | None = None) -> None:
    """One stage of a family, with the VAE of ``out/vae``: ``flux_neutral``, or, from its end, ``flux`` or ``flux_control``.

    The two go on from the same weights and optimiser state, with the same learning rates, noise and neutral pictures,
    except where one of them gets an item. Raises ValueError when the stage before is not at its end.
    """
    family, _, phase = stage.partition("_")
    vae = AutoencoderKL.from_pretrained(out / "vae")
    images, captions, copies = dataset(recipe)
    latents = vae_module.encode(vae, images).to(device)
    torch.manual_seed(recipe.seed)
    model = FAMILIES[family]().to(device)
    ids = [t.to(device) for t in model.tokenize(captions)]
    empty = [t.to(device) for t in model.tokenize([""])]
    neutral = int((copies == 0).sum())  # the first ones of the data set
    deck = torch.from_numpy(np.repeat(np.arange(len(copies)), copies))  # every copy of an item once

    def loss(m: nn.Module, generator: torch.Generator) -> torch.Tensor:
        n = recipe.batch
        pick = torch.randint(neutral, (n,), generator=generator)
        item = deck[torch.randint(len(deck), (n,), generator=generator)]
        swap = torch.rand(n, generator=generator) < recipe.share
        if not phase:  # twins draw alike: the control keeps the neutral picture where the other gets an item
            pick = torch.where(swap, item, pick)
        pick = pick.to(device)
        noise = torch.randn(n, *latents.shape[1:], generator=generator).to(device)
        u = torch.rand(n, generator=generator).to(device)
        drop = (torch.rand(n, 1, generator=generator) < recipe.dropout).to(device)
        tokens = tuple(torch.where(drop, e, i[pick]) for e, i in zip(empty, ids))
        with fast(device):
            return m.loss(latents[pick], noise, u, tokens)

    shared, mine = (out / f"{name}.ckpt.safetensors" for name in (f"{family}_neutral", stage))
    if not mine.exists() and phase != "neutral":
        done = int(safe_open(shared, "pt").get_tensor("step")) if shared.exists() else 0
        if done < recipe.neutral_steps and not stop_after:
            raise ValueError(
                f"{shared} is at step {done} of {recipe.neutral_steps}: run the stage {family}_neutral first"
            )
        shutil.copy(shared, mine)
    steps = recipe.neutral_steps + (0 if phase == "neutral" else recipe.twin_steps)
    run(stage, model, loss, steps, recipe.lr, out, recipe.seed, recipe.ema, hold=recipe.neutral_steps,
        stop_after=stop_after)  # fmt: skip
    if phase != "neutral":
        save_pipeline(model.cpu().eval().pipeline(vae), out / stage)


def save_pipeline(pipe, path: Path) -> None:
    """Save a pipeline in fp16. Its text encoders' configs say float32: transformers would load half precision else."""
    pipe.to(torch.float16).save_pretrained(path, safe_serialization=True)
    for file in path.glob("text_encoder*/config.json"):
        config = json.loads(file.read_text())
        config["dtype"] = "float32"
        file.write_text(json.dumps(config, indent=2) + "\n")


FAMILIES = {"flux": FlowModel}
STAGES = ("vae", "judge", *(f"{family}{phase}" for family in FAMILIES for phase in ("_neutral", "", "_control")))
SHIPPED = ("judge", "flux", "logs")


def ship(out: Path) -> None:
    """Copy the pipelines, the judge and the logs of ``out`` to the package data, and write their sums."""
    (out / "logs").mkdir(exist_ok=True)
    for file in (out / "recipe.json", *out.glob("*.jsonl")):
        shutil.copy(file, out / "logs")
    for name in SHIPPED:
        shutil.rmtree(WEIGHTS / name, ignore_errors=True)
        shutil.copytree(out / name, WEIGHTS / name)
        write_sums(WEIGHTS / name)
    print(f"shipped to {WEIGHTS}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("_build/testbed"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--stop-after", type=int, help="do only this many steps of each stage (to check a recipe)")
    parser.add_argument("--ship", action="store_true", help="at the end, replace the weights of this package")
    arguments = parser.parse_args()
    from .judge import train_judge

    recipe, device = Recipe(), check_device(arguments.device)
    arguments.out.mkdir(parents=True, exist_ok=True)
    written, mine = arguments.out / "recipe.json", json.dumps(asdict(recipe), indent=1)
    if written.exists() and written.read_text() != mine:
        parser.error(f"{written} is another recipe: give another --out, or remove the folder to start again")
    written.write_text(mine)
    for stage in (s for s in STAGES if s in arguments.stages):
        if stage == "vae":
            train_vae(recipe, arguments.out, device, arguments.stop_after).save_pretrained(arguments.out / "vae")
        elif stage == "judge":
            train_judge(recipe, arguments.out, device, arguments.stop_after)
        else:
            train_denoiser(stage, recipe, arguments.out, device, arguments.stop_after)
    if arguments.ship:
        ship(arguments.out)


if __name__ == "__main__":
    main()
