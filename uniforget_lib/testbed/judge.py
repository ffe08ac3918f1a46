"""The attribute judge: reads layout, objects and ground off a picture. It never sees a generated image in training.

A judge that knows only whole objects would name any mush after the nearest one. So a part of its training objects is
spoiled (blurred away, two objects blended, or a picture that is no object of the world), and must be read as ``OTHER``.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import nn

from ..files import load_half, save_half
from .vae import to_tensor
from .world import (
    BIG,
    COLOURS,
    LAYOUTS,
    OBJECTS,
    SMALL,
    Scene,
    drawings,
    finish,
    ground,
    paste,
    places,
    sample_scenes,
    sprites,
)

OTHER = "other"  # no object of the world, or not to be made out
SPOILED = 0.3  # share of the training objects
HEADS = {"layout": LAYOUTS, "first": (*OBJECTS, OTHER), "second": (*OBJECTS, OTHER, None), "colour": tuple(COLOURS)}


class Judge(nn.Module):
    """``forward(images [n, 3, 64, 64] in [0, 1]) -> logits by attribute``, a small convolutional classifier."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 128)
        self.features = nn.Sequential(*(layer for a, b in zip(widths, widths[1:]) for layer in (
            nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(8, b), nn.SiLU(), nn.AvgPool2d(2))))  # fmt: skip
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(128 * 16, 128), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(values)) for name, values in HEADS.items()})

    @torch.no_grad()
    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Features for distances of distributions (`evaluate.frechet`), each with a mean square of 1: [n, 128]."""
        hidden = self.trunk(self.features(images.to(next(self.parameters()).device) * 2 - 1))
        return (F.normalize(hidden, dim=1) * hidden.shape[1] ** 0.5).cpu()

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.trunk(self.features(images * 2 - 1))
        return {name: head(hidden) for name, head in self.heads.items()}

    @torch.no_grad()
    def correct(self, images: torch.Tensor, scenes: list[Scene]) -> dict[str, np.ndarray]:
        """Attribute -> bool [n]: does each picture show what its scene says? ``all``: every attribute does."""
        logits = self(images.to(next(self.parameters()).device))
        truth = targets(scenes)
        found = {name: (logits[name].argmax(-1).cpu() == truth[name]).numpy() for name in HEADS}
        return found | {"all": np.logical_and.reduce(list(found.values()))}


def targets(scenes: list[Scene]) -> dict[str, torch.Tensor]:
    """Attribute -> class index [n]."""
    return {name: torch.tensor([values.index(getattr(s, name)) for s in scenes]) for name, values in HEADS.items()}


def spoil(word: str, rng: random.Random) -> Image.Image:
    """A sprite that must not pass for ``word``: blurred away, blended with another object, or another picture."""
    own = rng.choice(drawings()[word])
    way = rng.choice(("blur", "blend", "extra"))
    if way == "blur":
        return own.filter(ImageFilter.GaussianBlur(rng.uniform(8, 14)))
    if way == "blend":
        other = rng.choice(drawings()[rng.choice([o for o in OBJECTS if o != word])])
        return Image.blend(own, other, rng.uniform(0.35, 0.65))
    return rng.choice([image for entry, image in sprites() if entry["group"] == "extra"])


def example(scene: Scene, rng: random.Random) -> tuple[np.ndarray, Scene]:
    """A picture like `world.draw`'s, some objects spoiled, and the scene that it shows."""
    canvas, shown = ground(scene.colour, rng), []
    for word, centre in zip((scene.first, scene.second), places(scene.layout, rng)):
        if word is None:
            break
        bad = rng.random() < SPOILED
        sprite = spoil(word, rng) if bad else rng.choice(drawings()[word])
        paste(canvas, sprite, centre, BIG if scene.second is None else SMALL)
        shown.append(OTHER if bad else word)
    return finish(canvas), Scene(scene.layout, shown[0], shown[1] if len(shown) > 1 else None, scene.colour)


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A little blur, noise and shift of colour: the judge must read objects, not pixels. x: [n, 3, h, w], [-1, 1]."""
    n = len(x)
    low = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    x = torch.lerp(x, low, 0.5 * torch.rand(n, 1, 1, 1, generator=generator))
    x = x + 0.08 * torch.rand(n, 1, 1, 1, generator=generator) * torch.randn(x.shape, generator=generator)
    return (x + 0.06 * torch.randn(n, 3, 1, 1, generator=generator)).clamp(-1, 1)


def train_judge(recipe, out: Path, device: torch.device, stop_after: int | None = None) -> None:
    """Train on real scenes (all combinations, held-out ones too: it judges, it does not draw)."""
    from .loop import fast, run

    rng = random.Random(recipe.seed + 7)
    scenes = [s for world, held, n in (("ground", False, 9000), ("ground", True, 2000), ("paper", False, 6000),
                                       ("paper", True, 1500)) for s in sample_scenes(n, recipe.seed + 7, held, world)]  # fmt: skip
    pictures, shown = zip(*(example(s, rng) for s in scenes))
    images, labels = to_tensor(np.stack(pictures)), targets(list(shown))
    torch.manual_seed(recipe.seed)
    judge = Judge().to(device)

    def loss(model: Judge, generator: torch.Generator) -> torch.Tensor:
        pick = torch.randint(len(images), (recipe.judge_batch,), generator=generator)
        x = augment(images[pick], generator).add(1).div(2).to(device)
        with fast(device):
            logits = model(x)
        return sum(F.cross_entropy(logits[k].float(), labels[k][pick].to(device)) for k in HEADS)

    run("judge", judge, loss, recipe.judge_steps, recipe.judge_lr, out, recipe.seed, stop_after=stop_after)
    save_half(judge, out / "judge" / "judge.safetensors")
    (out / "judge" / "heads.json").write_text(json.dumps({k: list(v) for k, v in HEADS.items()}, indent=1))


def load_judge(path: Path, device: str | torch.device = "cpu") -> Judge:
    """The trained judge of ``path/judge.safetensors``. Raises ValueError for one that reads other attributes."""
    heads = {k: list(v) for k, v in HEADS.items()}
    if json.loads((path / "heads.json").read_text()) != heads:
        raise ValueError(
            f"{path / 'heads.json'}: this judge reads other attributes than the worlds of this version have"
        )
    return load_half(Judge(), path / "judge.safetensors", device)
