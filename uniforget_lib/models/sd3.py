"""Stable Diffusion 3: rectified flow on a joint-attention transformer, images first in its sequence."""

from __future__ import annotations

import copy

import torch
from diffusers import StableDiffusion3Pipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor

from ..sites import Ref, Site
from .base import Cond, ModelAdapter


class StableDiffusion3Adapter(ModelAdapter):
    """Adapter of `StableDiffusion3Pipeline`, 3 and 3.5.

    The text is that of the two CLIP encoders, then that of T5 (zeros without one); `prompt_lengths` counts CLIP's.

    Args:
        guidance: classifier-free guidance with the empty prompt; 1 switches it off (and halves the cost).
        resolution: side of the image in pixels; the transformer's own unless given.
    """

    family = "sd3"
    text_first = False

    def __init__(self, pipe: StableDiffusion3Pipeline, *, guidance: float = 7.0, resolution: int | None = None) -> None:
        super().__init__(pipe, pipe.transformer, guidance)
        self.max_tokens = pipe.tokenizer_max_length
        self.resolution = resolution or pipe.transformer.config.sample_size * pipe.vae_scale_factor

    def all_sites(self) -> list[Site]:
        sites = []

        def rows(name: str) -> Ref:
            return Ref(name, 0, self.denoiser.get_submodule(name).out_features)

        for i, block in enumerate(self.denoiser.transformer_blocks):
            name = f"transformer_blocks.{i}"
            for norm in ("norm1", "norm1_context"):
                ref = rows(f"{name}.{norm}.linear")
                sites.append(Site(ref.linear, "norm", ref.stop, 1, (), (ref,)))
            for part in ("attn", "attn2"):  # attn2: images only, in some blocks of 3.5
                attn = getattr(block, part, None)
                if attn is None:
                    continue
                inner = attn.to_out[0].in_features
                outs = ["to_out.0"] + ["to_add_out"] * (getattr(attn, "to_add_out", None) is not None)
                qkv = ["to_q", "to_k", "to_v"] + ["add_q_proj", "add_k_proj", "add_v_proj"] * (part == "attn")
                readers = tuple(Ref(f"{name}.{part}.{out}", 0, inner) for out in outs)
                writers = tuple(rows(f"{name}.{part}.{w}") for w in qkv)
                sites.append(Site(f"{name}.{part}", "head", attn.heads, inner // attn.heads, readers, writers))
                if part == "attn":
                    sites.append(Site(f"{name}.{part}.add_v_proj", "value", inner, 1, (), writers[5:]))
            for ff in ("ff", "ff_context"):
                if getattr(block, ff, None) is not None:
                    read, write = (
                        Ref(f"{name}.{ff}.net.2", 0, rows(f"{name}.{ff}.net.0.proj").stop),
                        f"{name}.{ff}.net.0.proj",
                    )
                    sites.append(Site(f"{name}.{ff}", "ffn", read.stop, 1, (read,), (rows(write),)))
        return sites

    def encode_checked(self, prompts: list[str]) -> Cond:
        embeds, _, pooled, _ = self.pipe.encode_prompt(
            prompt=prompts, prompt_2=None, prompt_3=None, device=self.device, do_classifier_free_guidance=False
        )
        return Cond(embeds.to(self.dtype), pooled.to(self.dtype))

    def noise(self, n: int, seed: int) -> Tensor:
        side = self.resolution // self.pipe.vae_scale_factor
        shape = (1, self.denoiser.config.in_channels, side, side)
        rows = [torch.randn(shape, generator=torch.Generator().manual_seed(10007 * seed + i)) for i in range(n)]
        return torch.cat(rows).to(self.device, self.dtype)

    def sigmas(self, steps: int) -> Tensor:
        if steps < 1:
            raise ValueError(f"steps={steps}: sampling needs at least one step")
        scheduler, options = copy.deepcopy(self.pipe.scheduler), {}
        get = scheduler.config.get
        if get("use_dynamic_shifting"):
            side = self.resolution // self.pipe.vae_scale_factor // self.denoiser.config.patch_size
            options["mu"] = calculate_shift(side**2, get("base_image_seq_len", 256), get("max_image_seq_len", 4096),
                                            get("base_shift", 0.5), get("max_shift", 1.16))  # fmt: skip
        scheduler.set_timesteps(steps, device=self.device, **options)
        return scheduler.sigmas.to(self.device)

    def conditional(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        steps = self.pipe.scheduler.config.num_train_timesteps
        return self.denoiser(
            hidden_states=x,
            timestep=(sigma * steps).expand(len(x)),
            encoder_hidden_states=cond.embeds,
            pooled_projections=cond.pooled,
            return_dict=False,
        )[0]

    def grid(self, x: Tensor) -> Tensor:
        return x

    def token_counts(self, prompts: list[str]) -> Tensor:
        return torch.tensor(
            [
                len(row)
                for row in self.pipe.tokenizer(prompts, truncation=True, max_length=self.max_tokens + 1).input_ids
            ]
        )

    def decode(self, x: Tensor) -> Tensor:
        return self.from_vae(x)
