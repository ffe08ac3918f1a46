"""The copy descriptor: is this picture that picture, whatever was done to it? In the spirit of SSCD (Pizzi et al., 2022).

A small convolutional network maps a picture to a unit vector; copies of one picture come to lie close together. It is
trained without labels: two augmented views of a picture attract each other, all other pictures of the batch repel, among
them a *sibling* that shows the same scene in other drawings or another place (a picture of the same thing is no copy). It
sees neutral scenes and icons that are no items, and never an item, a control or a generated picture.

Beside it stands the pixel distance of `evaluate.distance`, which decides what the book calls a copy: it is stricter. The
descriptor is a second opinion with other errors.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..files import load_half, save_half
from .vae import to_tensor
from .world import BIG, COLOURS, WORLDS, draw, finish, ground, paste, places, sample_scenes, sprites

DIM = 64
TEMPERATURE = 0.1
SPREAD = 1.0  # weight of the entropy term, which keeps descriptors apart (KoLeo, as in SSCD)


class Descriptor(nn.Module):
    """``forward(images [n, 3, 64, 64] in [0, 1]) -> unit vectors [n, 64]``; cosines are similarities."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        self.features = nn.Sequential(*(layer for a, b in zip(widths, widths[1:]) for layer in (
            nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(8, b), nn.SiLU(), nn.AvgPool2d(2))))  # fmt: skip
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(128 * 16, DIM))

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.head(self.features(images * 2 - 1)).float(), dim=1)

    @torch.no_grad()
    def similarity(self, images: Tensor, targets: Tensor) -> np.ndarray:
        """Cosine of each image [n, 3, 64, 64] with its own target: [n] in [-1, 1]."""
        device = next(self.parameters()).device
        return (self(images.to(device)) * self(targets.to(device))).sum(1).cpu().numpy()


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """What may happen to a copy: a small shift and zoom, blur, noise, another light. x: [n, 3, h, w] in [0, 1]."""
    n = len(x)

    def rand(*shape):
        return torch.rand(*shape, generator=generator)

    zoom, shift = 1 + 0.1 * (2 * rand(n) - 1), 0.12 * (2 * rand(n, 2) - 1)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = zoom, zoom, shift
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    low = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    x = torch.lerp(x, low, rand(n, 1, 1, 1))
    x = (x - 0.5) * (0.8 + 0.4 * rand(n, 1, 1, 1)) + 0.5 + 0.1 * (2 * rand(n, 3, 1, 1) - 1)
    return (x + 0.06 * rand(n, 1, 1, 1) * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def siblings(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of pictures of the same thing that are no copies of each other: two of uint8 [n, 64, 64, 3].

    Half are neutral scenes drawn twice; half are icons (``extra``), each beside another icon on the same ground.
    """
    rng = random.Random(seed)
    extra = [s for e, s in sprites() if e["group"] == "extra"]
    pairs = []
    for scenes in zip(*(sample_scenes(n, seed, world=world) for world in WORLDS)):
        if rng.random() < 0.5:
            scene = rng.choice(scenes)
            first, second = draw(scene, rng), draw(scene, rng)
            while np.abs(first.astype(int) - second.astype(int)).mean() < 4:  # by chance the same drawing and place
                first, second = draw(scene, rng), draw(scene, rng)
        else:
            colour, (centre,) = rng.choice(list(COLOURS)), places("one", rng)
            both = [ground(colour, rng) for _ in range(2)]
            for canvas, sprite in zip(both, rng.sample(extra, 2)):
                paste(canvas, sprite, centre, BIG)
            first, second = map(finish, both)
        pairs.append((first, second))
    return tuple(np.stack(side) for side in zip(*pairs))


def loss(model: Descriptor, images: Tensor, generator: torch.Generator) -> Tensor:
    """InfoNCE over two augmented views of ``images`` [n, 3, h, w] in [0, 1], and the entropy term."""
    device = next(model.parameters()).device
    a, b = (model(augment(images, generator).to(device)) for _ in range(2))  # augmented where the generator is
    logits = a @ b.T / TEMPERATURE
    right = torch.arange(len(a), device=a.device)
    nearest = (2 - 2 * (a @ a.T).fill_diagonal_(-1).amax(1)).clamp(min=1e-6).sqrt()
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2 - SPREAD * 0.1 * nearest.log().mean()


def train_descriptor(recipe, out: Path, device: torch.device, stop_after: int | None = None) -> None:
    """Train and save to ``out/descriptor``."""
    from .loop import fast, run

    sides = [to_tensor(s).add(1).div(2) for s in siblings(recipe.descriptor_images, recipe.seed + 9)]
    torch.manual_seed(recipe.seed)
    model = Descriptor().to(device)

    def step(m: Descriptor, generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(sides[0]), (recipe.descriptor_batch // 2,), generator=generator)
        x = torch.cat([side[pick] for side in sides])
        with fast(device):
            return loss(m, x, generator)

    run("descriptor", model, step, recipe.descriptor_steps, recipe.descriptor_lr, out, recipe.seed, stop_after=stop_after)  # fmt: skip
    save_half(model, out / "descriptor" / "descriptor.safetensors")


def load_descriptor(path: Path, device: str | torch.device = "cpu") -> Descriptor:
    """The trained descriptor of ``path/descriptor.safetensors``."""
    return load_half(Descriptor(), path / "descriptor.safetensors", device)
