"""Full-size denoisers on the meta device: their names, sizes and work, without a weight. For counting, not for drawing."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import nn

from .base import ModelAdapter
from .cond import Cond
from .flux import FluxAdapter
from .sd import StableDiffusionAdapter
from .sd3 import StableDiffusion3Adapter
from .sdxl import StableDiffusionXLAdapter

_SDXL = dict(
    sample_size=128, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), block_out_channels=(320, 640, 1280),
    transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20), cross_attention_dim=2048,
    use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)  # fmt: skip
_SD3 = dict(sample_size=128, num_layers=24, num_attention_heads=24, caption_projection_dim=1536, pos_embed_max_size=192)

# name -> adapter, denoiser, side of a picture, tokens of text, their width, width of the pooled text
FULL_SIZE: dict[str, tuple[type[ModelAdapter], Callable, int, int, int, int | None]] = {
    "Stable Diffusion 1.4": (StableDiffusionAdapter,
                             lambda: UNet2DConditionModel(sample_size=64, cross_attention_dim=768), 512, 77, 768, None),
    "SDXL": (StableDiffusionXLAdapter, lambda: UNet2DConditionModel(**_SDXL), 1024, 77, 2048, 1280),
    "Stable Diffusion 3 medium": (StableDiffusion3Adapter, lambda: SD3Transformer2DModel(**_SD3), 1024, 77 + 256, 4096, 2048),
    "FLUX.1-schnell": (FluxAdapter, FluxTransformer2DModel, 1024, 256, 4096, 768),
}  # fmt: skip


def skeleton(name: str, *, resolution: int | None = None) -> ModelAdapter:
    """An adapter of the published configuration, for its sites and for `evaluate.weights`, `flops` and `graph`; it has no
    weights to be hashed, drawn with, baked or shrunk.

    ``resolution``: side of its pictures; that of the published model unless given. Raises ValueError for an unknown name.
    """
    if name not in FULL_SIZE:
        raise ValueError(f"{name!r}: use one of {sorted(FULL_SIZE)}")
    kind, build, side, tokens, width, pooled = FULL_SIZE[name]
    with torch.device("meta"):
        denoiser = nn.Module.to(build(), torch.bfloat16).eval()
    adapter = kind.__new__(kind)
    adapter.denoiser, adapter.cfg, adapter.resolution = denoiser, 1.0, side if resolution is None else resolution
    adapter.offload, adapter.storage, adapter.masking = False, None, 0
    vae = SimpleNamespace(config=SimpleNamespace(sample_size=side))
    adapter.pipe = SimpleNamespace(
        vae=vae, vae_scale_factor=8, components={}, _pack_latents=FluxPipeline._pack_latents,
        _prepare_latent_image_ids=FluxPipeline._prepare_latent_image_ids,
        scheduler=DDIMScheduler() if "UNet" in type(denoiser).__name__ else FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip
    if isinstance(adapter, StableDiffusionAdapter):
        alphas = adapter.pipe.scheduler.alphas_cumprod
        adapter._levels = ((1 - alphas) / alphas).sqrt()
        adapter.sigmas = lambda steps: adapter._levels[-1:].repeat(steps + 1)  # on the CPU: the adapter reads them

    def encode(prompts) -> Cond:
        shapes = [(len(prompts), tokens, width), (len(prompts), pooled)]
        embeds, small = (torch.empty(*s, device="meta", dtype=torch.bfloat16) if s[-1] else None for s in shapes)
        return Cond(embeds, small)

    adapter.encode = encode
    return adapter
