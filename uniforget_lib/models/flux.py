"""FLUX: rectified flow on a joint-attention transformer (double-stream, then single-stream blocks)."""

from __future__ import annotations

import copy

import numpy as np
import torch
from diffusers import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor

from ..sites import Ref, Site
from .base import Cond, ModelAdapter


class FluxAdapter(ModelAdapter):
    """Adapter of `FluxPipeline`.

    Args:
        guidance: the embedded guidance of guidance-distilled models (dev: 3.5); ignored by the others.
        true_cfg: classifier-free guidance with the empty prompt; 1 switches it off (and halves the cost).
        resolution: side of the image in pixels; the VAE's ``sample_size`` unless given.
    """

    family = "flux"
    begin = 0

    def __init__(
        self, pipe: FluxPipeline, *, guidance: float = 3.5, true_cfg: float = 1.0, resolution: int | None = None
    ):
        super().__init__(pipe, pipe.transformer, true_cfg)
        self.guidance = guidance
        self.resolution = resolution or pipe.vae.config.sample_size
        self.max_tokens = min(512, pipe.tokenizer_2.model_max_length)

    def all_sites(self) -> list[Site]:
        config = self.denoiser.config
        width, sites = config.attention_head_dim, []

        def linear(name: str):
            return self.denoiser.get_submodule(name)

        def rows(name: str) -> Ref:
            return Ref(name, 0, linear(name).out_features)

        def norm(name: str) -> Site:
            return Site(name, "norm", linear(name).out_features, 1, (), (rows(name),))

        for i in range(config.num_layers):
            block = f"transformer_blocks.{i}"
            heads = self.denoiser.get_submodule(f"{block}.attn").heads  # fewer than configured in a shrunk model
            d = heads * width
            sites += [norm(f"{block}.norm1.linear"), norm(f"{block}.norm1_context.linear")]
            qkv = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")
            readers = tuple(Ref(f"{block}.attn.{out}", 0, d) for out in ("to_out.0", "to_add_out"))
            writers = tuple(rows(f"{block}.attn.{name}") for name in qkv)
            sites.append(Site(f"{block}.attn", "head", heads, width, readers, writers))
            sites.append(Site(f"{block}.attn.add_v_proj", "value", d, 1, (), writers[5:]))
            for ff in ("ff", "ff_context"):
                inner = linear(f"{block}.{ff}.net.2").in_features
                sites.append(Site(f"{block}.{ff}", "ffn", inner, 1, (Ref(f"{block}.{ff}.net.2", 0, inner),),
                                  (rows(f"{block}.{ff}.net.0.proj"),)))  # fmt: skip
        for i in range(config.num_single_layers):
            block = f"single_transformer_blocks.{i}"
            heads = self.denoiser.get_submodule(f"{block}.attn").heads
            d = heads * width
            out = f"{block}.proj_out"
            inner = linear(out).in_features - d
            sites.append(norm(f"{block}.norm.linear"))
            writers = tuple(rows(f"{block}.attn.{name}") for name in ("to_q", "to_k", "to_v"))
            sites.append(Site(f"{block}.attn", "head", heads, width, (Ref(out, 0, d),), writers))
            sites.append(Site(f"{block}.ff", "ffn", inner, 1, (Ref(out, d, d + inner),), (rows(f"{block}.proj_mlp"),)))
        return sites

    def encode_checked(self, prompts: list[str]) -> Cond:
        embeds, pooled, _ = self.pipe.encode_prompt(
            prompt=prompts, prompt_2=None, device=self.device, max_sequence_length=self.max_tokens,
        )  # fmt: skip
        return Cond(embeds.to(self.dtype), pooled.to(self.dtype))

    def noise(self, n: int, seed: int) -> Tensor:
        channels = self.denoiser.config.in_channels // 4
        side = 2 * (self.resolution // (2 * self.pipe.vae_scale_factor))
        rows = [torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(10007 * seed + i))
                for i in range(n)]  # fmt: skip
        packed = self.pipe._pack_latents(torch.cat(rows), n, channels, side, side)
        return packed.to(self.device, self.dtype)

    def sigmas(self, steps: int) -> Tensor:
        if steps < 1:
            raise ValueError(f"steps={steps}: sampling needs at least one step")
        scheduler = copy.deepcopy(self.pipe.scheduler)
        tokens = (self.resolution // (2 * self.pipe.vae_scale_factor)) ** 2
        get = scheduler.config.get
        mu = calculate_shift(tokens, get("base_image_seq_len", 256), get("max_image_seq_len", 4096),
                             get("base_shift", 0.5), get("max_shift", 1.15))  # fmt: skip
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), device=self.device, mu=mu)
        return scheduler.sigmas.to(self.device)

    def conditional(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        n, side = len(x), self.resolution // (2 * self.pipe.vae_scale_factor)
        ids = self.pipe._prepare_latent_image_ids(n, side, side, x.device, x.dtype)
        guided = self.denoiser.config.guidance_embeds
        return self.denoiser(
            hidden_states=x,
            timestep=sigma.to(x.dtype).expand(n),
            guidance=x.new_full((n,), self.guidance) if guided else None,
            pooled_projections=cond.pooled,
            encoder_hidden_states=cond.embeds,
            txt_ids=x.new_zeros(cond.embeds.shape[1], 3),
            img_ids=ids,
            return_dict=False,
        )[0]

    def grid(self, x: Tensor) -> Tensor:
        side = self.resolution // (2 * self.pipe.vae_scale_factor)
        return x.transpose(1, 2).unflatten(2, (side, side))

    def latents_of(self, images: Tensor) -> Tensor:
        z = self.to_vae(images)
        return self.pipe._pack_latents(z, *z.shape)

    def token_counts(self, prompts: list[str]) -> Tensor:
        return torch.tensor(
            [
                len(row)
                for row in self.pipe.tokenizer_2(prompts, truncation=True, max_length=self.max_tokens + 1).input_ids
            ]
        )

    def decode(self, x: Tensor) -> Tensor:
        side, factor = self.resolution, self.pipe.vae_scale_factor
        return self.from_vae(self.pipe._unpack_latents(x, side, side, factor))
