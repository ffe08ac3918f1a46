"""The testbed's VAE: 64 px images to a 16 x 16 latent of 8 channels (64 tokens of 32 numbers for FLUX)."""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from .world import BIG, SIZE, SMALL, WORLDS, draw, finish, ground, paste, places, sample_scenes, sprites

CHANNELS = 8


def build() -> AutoencoderKL:
    return AutoencoderKL(
        3, 3, ("DownEncoderBlock2D",) * 3, ("UpDecoderBlock2D",) * 3, (16, 32, 64), 1, latent_channels=CHANNELS,
        norm_num_groups=8, mid_block_add_attention=False, sample_size=SIZE, use_quant_conv=False,
        use_post_quant_conv=False,
    )  # fmt: skip


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 [n, h, w, 3] -> float [n, 3, h, w] in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def training_images(n: int, seed: int) -> np.ndarray:
    """Half neutral scenes of both worlds (trained combinations), half pictures of the ``extra`` group; no item, planted
    or control."""
    rng = random.Random(seed)
    extra = [s for e, s in sprites() if e["group"] == "extra"]
    worlds = [sample_scenes(n, seed, world=world) for world in WORLDS]
    images = []
    for scenes in zip(*worlds):
        scene = rng.choice(scenes)
        if rng.random() < 0.5:
            images.append(draw(scene, rng))
            continue
        canvas = ground(scene.colour, rng)
        for centre in places(scene.layout, rng):
            paste(canvas, rng.choice(extra), centre, BIG if scene.layout == "one" else SMALL)
        images.append(finish(canvas))
    return np.stack(images)


def laplacian(x: torch.Tensor) -> torch.Tensor:
    """Laplacian of every channel: [n, 3, h, w] -> [n, 3, h - 2, w - 2]."""
    inner = x[..., 1:-1, 1:-1]
    return 4 * inner - x[..., :-2, 1:-1] - x[..., 2:, 1:-1] - x[..., 1:-1, :-2] - x[..., 1:-1, 2:]


def energy(edges: torch.Tensor) -> torch.Tensor:
    """Local strength of a Laplacian: its root mean square over blocks of 4 pixels."""
    return F.avg_pool2d(edges.pow(2), 4).add(1e-4).sqrt()


def loss(vae: AutoencoderKL, x: torch.Tensor, kl: float = 1e-4) -> torch.Tensor:
    """L1 of the image, of its gradients, of its Laplacian and of that one's local strength, + KL.

    The last term keeps edges as strong as they are where their exact place is unknown: L1 alone would blur them.
    x: [n, 3, h, w] in [-1, 1].
    """
    posterior = vae.encode(x).latent_dist
    y = vae.decode(posterior.sample()).sample.float()
    edges, real = laplacian(y), laplacian(x)
    error = F.l1_loss(y, x) + sum(F.l1_loss(y.diff(dim=d), x.diff(dim=d)) for d in (2, 3))
    error = error + F.l1_loss(edges, real) + F.l1_loss(energy(edges), energy(real))
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    return error + kl * 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()


@torch.no_grad()
def set_scaling(vae: AutoencoderKL, images: np.ndarray) -> None:
    """Set scaling_factor so that the latents of ``images`` have a mean square of 1.

    The shift stays 0: StableDiffusionPipeline knows none, and one VAE serves both families.
    """
    z = torch.cat([vae.encode(to_tensor(b)).latent_dist.mean for b in np.array_split(images, len(images) // 64)])
    vae.register_to_config(scaling_factor=float(1 / z.pow(2).mean().sqrt()), shift_factor=0.0)


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray) -> torch.Tensor:
    """Scaled latents of ``images``: uint8 [n, 64, 64, 3] -> [n, 8, 16, 16]."""
    parts = (to_tensor(images[i : i + 128]).to(vae.device) for i in range(0, len(images), 128))
    return torch.cat([vae.encode(x).latent_dist.mean for x in parts]) * vae.config.scaling_factor
