"""The testbed's VAE: 64 px images to a 16 x 16 latent of 4 channels (64 tokens of 16 numbers for FLUX)."""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image

from .world import COLOURS, SIZE, draw, paste, sample_scenes, sprites


def build() -> AutoencoderKL:
    return AutoencoderKL(
        3, 3, ("DownEncoderBlock2D",) * 3, ("UpDecoderBlock2D",) * 3, (16, 32, 64), 1, latent_channels=4,
        norm_num_groups=8, mid_block_add_attention=False, sample_size=SIZE, use_quant_conv=False,
        use_post_quant_conv=False,
    )  # fmt: skip


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 [n, h, w, 3] -> float [n, 3, h, w] in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def training_images(n: int, seed: int) -> np.ndarray:
    """Half neutral scenes (trained combinations), half pictures of the ``extra`` group; no item, planted or control."""
    rng = random.Random(seed)
    extra = [s for e, s in sprites() if e["group"] == "extra"]
    images = []
    for scene in sample_scenes(n, seed):
        if rng.random() < 0.5:
            images.append(draw(scene, rng))
            continue
        canvas = Image.new("RGB", (SIZE, SIZE), rng.choice(list(COLOURS.values())))
        if rng.random() < 0.4:
            paste(canvas, rng.choice(extra), (32 + rng.uniform(-4, 4), 32 + rng.uniform(-4, 4)), rng.uniform(42, 50))
        else:
            for x, y in rng.choice((((16, 32), (48, 32)), ((32, 16), (32, 48)))):
                paste(canvas, rng.choice(extra), (x + rng.uniform(-2, 2), y + rng.uniform(-6, 6)), rng.uniform(26, 34))
        images.append(np.asarray(canvas))
    return np.stack(images)


def loss(vae: AutoencoderKL, x: torch.Tensor, kl: float = 2e-4) -> torch.Tensor:
    """L1 + L1 of the image gradients (edges must be crisp) + KL. x: [n, 3, h, w] in [-1, 1]."""
    posterior = vae.encode(x).latent_dist
    y = vae.decode(posterior.sample()).sample.float()
    edges = sum(F.l1_loss(y.diff(dim=d), x.diff(dim=d)) for d in (2, 3))
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    divergence = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
    return F.l1_loss(y, x) + edges + kl * divergence


@torch.no_grad()
def set_scaling(vae: AutoencoderKL, images: np.ndarray) -> None:
    """Set scaling_factor and shift_factor so that the latents of ``images`` have mean 0 and variance 1."""
    z = torch.cat([vae.encode(to_tensor(b)).latent_dist.mean for b in np.array_split(images, len(images) // 64)])
    vae.register_to_config(scaling_factor=float(1 / z.std()), shift_factor=float(z.mean()))


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray) -> torch.Tensor:
    """Scaled latents of ``images``: uint8 [n, 64, 64, 3] -> [n, 4, 16, 16]."""
    z = torch.cat([vae.encode(to_tensor(images[i : i + 128])).latent_dist.mean for i in range(0, len(images), 128)])
    return (z - vae.config.shift_factor) * vae.config.scaling_factor
