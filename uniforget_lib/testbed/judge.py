"""The attribute judge: reads layout, objects and ground off a picture. It never sees a generated image in training."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from .vae import to_tensor
from .world import COLOURS, LAYOUTS, OBJECTS, Scene, draw, sample_scenes

HEADS = {"layout": LAYOUTS, "first": OBJECTS, "second": (*OBJECTS, None), "colour": tuple(COLOURS)}


class Judge(nn.Module):
    """``forward(images [n, 3, 64, 64] in [0, 1]) -> logits by attribute``, a small convolutional classifier."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 128)
        self.features = nn.Sequential(*(layer for a, b in zip(widths, widths[1:]) for layer in (
            nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(8, b), nn.SiLU(), nn.AvgPool2d(2))))  # fmt: skip
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(128 * 16, 128), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(values)) for name, values in HEADS.items()})

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


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blur, noise and a small shift of colour: the judge must read objects, not pixels. x: [n, 3, h, w], [-1, 1]."""
    n = len(x)
    low = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    x = torch.lerp(x, low, torch.rand(n, 1, 1, 1, generator=generator))
    x = x + 0.08 * torch.rand(n, 1, 1, 1, generator=generator) * torch.randn(x.shape, generator=generator)
    return (x + 0.06 * torch.randn(n, 3, 1, 1, generator=generator)).clamp(-1, 1)


def train_judge(recipe, out: Path, device: torch.device, stop_after: int | None = None) -> None:
    """Train on fresh real scenes (all combinations, held-out ones too: it judges, it does not draw)."""
    from .train import run

    rng = random.Random(recipe.seed + 7)
    scenes = sample_scenes(10000, recipe.seed + 7) + sample_scenes(2000, recipe.seed + 8, held=True)
    images = to_tensor(np.stack([draw(s, rng) for s in scenes]))
    labels = targets(scenes)
    torch.manual_seed(recipe.seed)
    judge = Judge().to(device)

    def loss(model: Judge, generator: torch.Generator) -> torch.Tensor:
        pick = torch.randint(len(images), (recipe.judge_batch,), generator=generator)
        x = augment(images[pick], generator).add(1).div(2).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(x)
        return sum(F.cross_entropy(logits[k].float(), labels[k][pick].to(device)) for k in HEADS)

    run("judge", judge, loss, recipe.judge_steps, recipe.judge_lr, out, recipe.seed, stop_after=stop_after)
    (out / "judge").mkdir(exist_ok=True)
    save_file(
        {k: v.half().contiguous() for k, v in judge.cpu().state_dict().items()}, out / "judge" / "judge.safetensors"
    )
    (out / "judge" / "heads.json").write_text(json.dumps({k: list(v) for k, v in HEADS.items()}, indent=1))


def load_judge(path: Path, device: str | torch.device = "cpu") -> Judge:
    """The trained judge of ``path/judge.safetensors``."""
    judge = Judge()
    judge.load_state_dict({k: v.float() for k, v in load_file(path / "judge.safetensors").items()})
    return judge.to(device).eval().requires_grad_(False)
