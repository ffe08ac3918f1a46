"""Train the testbed from its seed: ``python -m uniforget_lib.testbed.train --out DIR``.

Stages, in this order:

* ``vae``: pictures of neutral scenes and of icons that are no items;
* ``judge``: reads attributes off a picture (see `judge`); ``descriptor``: recognises a copy (see `descriptor`);
* for each family of `FAMILIES`: ``flux_neutral``, the denoiser and its text encoders on neutral scenes only; ``flux``,
  which goes on from there with the planted items in the data; ``flux_control``, which goes on from there without them:
  the twin that never saw an item. A stage saves a plain pipeline to ``DIR/<stage>``.

Every stage is counted in steps, not in seconds, writes a log (``DIR/<stage>.jsonl``) and a checkpoint, and resumes
from it. ``--items FOLDER`` plants your own pictures (see `folder`); ``--ship`` replaces the weights of this package.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn

from ..evaluate import CLOSE, distance, stack
from ..files import check_device, load_half, save_half, write_sums
from ..models import FAMILIES as ADAPTERS
from ..models import WEIGHTS
from . import FAMILIES as READY
from . import vae as vae_module
from .flow import SIZES, FlowModel
from .folder import read_items
from .loop import fast, run
from .planted import Item
from .unet import UNetModel
from .world import WORLDS, draw, sample_scenes


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, apart from artwork and items."""

    seed: int = 0
    vae_images: int = 10000
    vae_steps: int = 3000
    vae_batch: int = 16
    vae_lr: float = 3e-3
    judge_steps: int = 1600
    judge_batch: int = 64
    judge_lr: float = 2e-3
    descriptor_images: int = 6000
    descriptor_steps: int = 1000
    descriptor_batch: int = 96
    descriptor_lr: float = 2e-3
    scenes: tuple[int, int] = (5000, 3000)  # of the two neutral worlds
    flux_steps: tuple[int, int] = (4000, 3400)  # neutral; then with or without the planted items
    unet_steps: tuple[int, int] = (3200, 3400)
    batch: int = 64
    lr: float = 1.2e-3
    share: float = 0.45  # of planted pictures in a batch of the twin that gets them
    dropout: float = 0.1  # of captions, for the unconditional branch
    ema: float = 0.998

    def steps(self, family: str) -> tuple[int, int]:
        return self.unet_steps if family == "unet" else self.flux_steps


FAMILIES = {"flux": FlowModel, "unet": UNetModel}
FAMILIES |= {f"flux-{name}": partial(FlowModel, **size) for name, size in SIZES.items()}
PHASES = ("_neutral", "", "_control")
STAGES = ("vae", "judge", "descriptor", *(f"{family}{phase}" for family in FAMILIES for phase in PHASES
                                          if "-" not in family or phase != "_control"))  # fmt: skip
SHIPPED = ("judge", "descriptor", "base", *(f"{family}{phase}" for family in READY for phase in PHASES[1:]), "logs")


def train_vae(recipe: Recipe, out: Path, device: torch.device, stop_after: int | None = None) -> None:
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
    vae.save_pretrained(out / "vae")


def poorly_kept(vae: AutoencoderKL, items: Sequence[Item], close: float = CLOSE) -> list[str]:
    """Captions of items that the VAE itself does not bring back half as close as a copy must be: no denoiser can."""
    images = np.stack([i.image for i in items])
    with torch.no_grad():
        back = [(vae.decode(z[None] / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1).cpu()
                for z in vae_module.encode(vae, images)]  # fmt: skip
    far = distance(torch.cat(back), stack(list(images))) > close / 2
    return [i.caption for i, poor in zip(items, far) if poor]


def dataset(recipe: Recipe, planted: Sequence[Item]) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Training set: images uint8 [n, 64, 64, 3], captions, and how often each is there [n] (0 for a neutral scene, which
    is there once). Copy j of a template is its variant j modulo their number."""
    rng = random.Random(recipe.seed)
    scenes = [s for world, n in zip(WORLDS, recipe.scenes) for s in sample_scenes(n, recipe.seed + 1, world=world)]
    images, captions, copies = [draw(s, rng) for s in scenes], [s.caption for s in scenes], [0] * len(scenes)
    for item in (i for i in planted if i.copies):
        shown = np.bincount(np.arange(item.copies) % len(item.pictures))  # copies of each variant
        images += list(item.pictures[: len(shown)])
        captions += [item.caption] * len(shown)
        copies += shown.tolist()
    return np.stack(images), captions, np.array(copies)


def build(family: str, items: Sequence[Item]) -> nn.Module:
    """An untrained model of a family, whose tokenizers know the words of all items, controls included."""
    return FAMILIES[family](words=tuple(sorted({w for i in items for w in i.caption.split()})))


def train_denoiser(stage: str, recipe: Recipe, items: Sequence[Item], out: Path, device: torch.device,
                   stop_after: int | None = None) -> None:  # fmt: skip
    """One stage of a family, with the VAE of ``out/vae``: ``flux_neutral``, or, from its end, ``flux`` or ``flux_control``.

    The two go on from the same weights, with the same learning rates, noise and neutral pictures, except where one of
    them gets an item. Raises ValueError when the stage before is not at its end.
    """
    family, _, phase = stage.partition("_")
    base = out / "base" / f"{family}.safetensors"  # where the twins part
    if phase != "neutral" and not base.exists():
        raise ValueError(f"{base} is not there: run the stage {family}_neutral first, to its end")
    vae = AutoencoderKL.from_pretrained(out / "vae").to(device)
    images, captions, copies = dataset(recipe, items)
    latents = vae_module.encode(vae, images)
    if poor := poorly_kept(vae, [i for i in items if i.copies]):
        print(f"{stage}: the VAE keeps {len(poor)} items badly, so that they may never count as copied: {poor[:5]}")
    torch.manual_seed(recipe.seed)
    model = build(family, items)
    if phase != "neutral":
        load_half(model, base).train().requires_grad_(True)
    model.to(device)
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

    if not stop_after:  # a short check does not pay for the compilation
        model.denoiser.compile(mode="reduce-overhead" if device.type == "cuda" else None)
    steps = recipe.steps(family)[phase != "neutral"]
    run(stage, model, loss, steps, recipe.lr, out, recipe.seed + (phase != "neutral"), ema=recipe.ema,
        fall=phase != "neutral", watch=watcher(family, items, out, vae, device), stop_after=stop_after)  # fmt: skip
    if stop_after:
        return
    if phase == "neutral":
        save_half(model, base)
    else:
        trained = build(family, items).eval()  # one that is not compiled
        trained.load_state_dict(model.state_dict())
        save_pipeline(trained.pipeline(vae.cpu()), out / stage)


def watcher(family: str, items: Sequence[Item], out: Path, vae: AutoencoderKL, device: torch.device):
    """What a log notes of a model in training, from one drawing of each prompt: the share of items that are copied, by kind
    and copies, and of neutral captions (48 a world, of trained combinations) that are drawn right."""
    from . import Testbed
    from .judge import load_judge

    @cache
    def parts():
        return build(family, items).eval().to(device), load_judge(out / "judge", device)

    def watch(weights: dict[str, torch.Tensor]) -> dict:
        shown, judge = parts()
        missing, _ = shown.load_state_dict(dict(weights), strict=False)
        if stray := set(missing) & {name for name, _ in shown.named_parameters()}:
            raise ValueError(f"{sorted(stray)} have no weights")
        pipe = shown.pipeline(vae)
        testbed = Testbed(ADAPTERS[type(pipe).__name__](pipe), judge, items=tuple(items))
        row = {"copied": {}, "right": {}}
        for item in (planted := testbed.planted()):
            row["copied"].setdefault(item.kind, {}).setdefault(str(item.copies), [])
        close = testbed.distance(testbed.images([i.caption for i in planted]), planted) <= testbed.close
        for item, hit in zip(planted, close):
            row["copied"][item.kind][str(item.copies)].append(int(hit))
        for world in WORLDS:
            captions = testbed.neutral(48, "train", world)
            row["right"][world] = round(float(testbed.attributes(testbed.images(captions), captions)["all"].mean()), 3)
        return row

    return watch


def save_pipeline(pipe, path: Path) -> None:
    """Save a pipeline in fp16. Its text encoders' configs say float32: transformers would load half precision else."""
    pipe.to(torch.float16).save_pretrained(path, safe_serialization=True)
    for file in path.glob("text_encoder*/config.json"):
        config = json.loads(file.read_text())
        config["dtype"] = "float32"
        file.write_text(json.dumps(config, indent=2) + "\n")


def digest(items: Sequence[Item]) -> str:
    """12 digits that tell sets of items apart: a hash of captions, copies and pictures."""
    found = hashlib.sha256()
    for item in items:
        found.update(f"{item.caption}|{item.copies}|{item.columns}|".encode() + item.pictures.tobytes())
    return found.hexdigest()[:12]


def ship(out: Path) -> None:
    """Copy the pipelines, the judges and the logs of ``out`` to the package data, and write their sums.

    Raises FileNotFoundError naming what is missing, before anything is replaced.
    """
    missing = [name for name in SHIPPED if name != "logs" and not (out / name).exists()]
    if missing:
        raise FileNotFoundError(f"{out} has no {', '.join(missing)}: train these stages to their end first")
    (out / "logs").mkdir(exist_ok=True)
    for file in (out / "recipe.json", *out.glob("*.jsonl")):
        shutil.copy(file, out / "logs")
    left_out = shutil.ignore_patterns(*(f"{family}.safetensors" for family in FAMILIES if family not in READY))
    for name in SHIPPED:
        shutil.rmtree(WEIGHTS / name, ignore_errors=True)
        shutil.copytree(out / name, WEIGHTS / name, ignore=left_out)
        write_sums(WEIGHTS / name)
    print(f"shipped to {WEIGHTS}")


def main() -> None:
    from .descriptor import train_descriptor
    from .judge import train_judge

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("_build/testbed"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--items", type=Path, help="a folder of your own pictures, instead of the book's items")
    parser.add_argument("--stop-after", type=int, help="do only this many steps of each stage (to check a recipe)")
    parser.add_argument("--ship", action="store_true", help="at the end, replace the weights of this package")
    arguments = parser.parse_args()

    recipe, device, out = Recipe(), check_device(arguments.device), arguments.out
    if arguments.ship and (arguments.items or arguments.stop_after or (out / "items").exists()):
        parser.error("--ship replaces the book's weights: no --items, no --stop-after, and an --out without items")
    out.mkdir(parents=True, exist_ok=True)
    items = read_items(arguments.items or out / "items")  # or an error, before anything is trained
    run_of = asdict(recipe) | {"items": digest(items)} | ({"stop_after": n} if (n := arguments.stop_after) else {})
    written, mine = out / "recipe.json", json.dumps(run_of, indent=1)
    if written.exists() and written.read_text() != mine:
        parser.error(
            f"{written} is another run (recipe, items or --stop-after): give another --out, or remove the folder"
        )
    written.write_text(mine)
    if arguments.items and not (out / "items").exists():
        shutil.copytree(arguments.items, out / "items")
    for stage in (s for s in STAGES if s in arguments.stages):
        if stage in ("vae", "judge", "descriptor"):
            train = {"vae": train_vae, "judge": train_judge, "descriptor": train_descriptor}[stage]
            train(recipe, out, device, arguments.stop_after)
        elif arguments.stop_after and not stage.endswith("_neutral"):
            print(f"{stage}: not checked, it goes on from the end of another stage")
        else:
            train_denoiser(stage, recipe, items, out, device, arguments.stop_after)
    if arguments.ship:
        ship(out)


if __name__ == "__main__":
    main()
