"""Stable Diffusion 1.x and 2.x: a U-Net with cross-attention, sampled by deterministic DDIM."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor

from ..sites import Ref, Site
from .base import Cond, ModelAdapter


class StableDiffusionAdapter(ModelAdapter):
    """Adapter of `StableDiffusionPipeline`.

    Latents are those of k-diffusion, x = x_vp sqrt(1 + sigma^2): there a deterministic DDIM step *is* an Euler step,
    with dx/dsigma the noise prediction. The pipeline's scheduler is replaced by DDIM with trailing timesteps, so that
    every number of steps starts from the same noise level; the pipeline then draws what the library draws, for every
    number of steps that divides ``num_train_timesteps`` (DDIM rounds the others by one).

    Args:
        guidance: classifier-free guidance with the empty prompt; 1 switches it off (and halves the cost).
        resolution: side of the image in pixels; the U-Net's own unless given.
    """

    family = "sd"

    def __init__(self, pipe: StableDiffusionPipeline, *, guidance: float = 7.5, resolution: int | None = None) -> None:
        super().__init__(pipe, pipe.unet, guidance)
        options = {
            "timestep_spacing": "trailing",
            "clip_sample": False,
            "thresholding": False,
            "set_alpha_to_one": True,
        }
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **options)
        kind = pipe.scheduler.config.prediction_type
        if kind not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction_type {kind!r}: this adapter knows 'epsilon' and 'v_prediction'")
        if getattr(pipe.vae.config, "shift_factor", None):
            raise ValueError("this VAE has a shift_factor, which StableDiffusionPipeline ignores when it decodes")
        self.max_tokens = pipe.tokenizer.model_max_length
        self.resolution = resolution or pipe.unet.config.sample_size * pipe.vae_scale_factor
        alphas = pipe.scheduler.alphas_cumprod
        self._levels = ((1 - alphas) / alphas).sqrt()  # [T], the sigma of every timestep

    def all_sites(self) -> list[Site]:
        sites = []
        blocks = [name for name, block in self.denoiser.named_modules() if isinstance(block, BasicTransformerBlock)]
        for name in _as_they_run(blocks):
            block = self.denoiser.get_submodule(name)
            for part in ("attn1", "attn2"):
                attn = getattr(block, part)
                if attn is None:
                    continue
                inner = attn.to_out[0].in_features
                readers = (Ref(f"{name}.{part}.to_out.0", 0, inner),)
                writers = tuple(Ref(f"{name}.{part}.{qkv}", 0, inner) for qkv in ("to_q", "to_k", "to_v"))
                sites.append(Site(f"{name}.{part}", "head", attn.heads, inner // attn.heads, readers, writers))
                if part == "attn2":
                    sites.append(Site(f"{name}.{part}.to_v", "value", inner, 1, (), writers[2:]))
            inner = block.ff.net[2].in_features
            rows = block.ff.net[0].proj.out_features  # GEGLU: the values, then the gates
            writers = tuple(Ref(f"{name}.ff.net.0.proj", i, i + inner) for i in range(0, rows, inner))
            sites.append(Site(f"{name}.ff", "ffn", inner, 1, (Ref(f"{name}.ff.net.2", 0, inner),), writers))
        return sites

    def encode_checked(self, prompts: list[str]) -> Cond:
        embeds, _ = self.pipe.encode_prompt(prompts, self.device, 1, False)
        return Cond(embeds.to(self.dtype))

    def noise(self, n: int, seed: int) -> Tensor:
        side = self.resolution // self.pipe.vae_scale_factor
        shape = (1, self.denoiser.config.in_channels, side, side)
        rows = [torch.randn(shape, generator=torch.Generator().manual_seed(10007 * seed + i)) for i in range(n)]
        return (torch.cat(rows) * self.input_scale(self._levels[-1])).to(self.device, self.dtype)

    def sigmas(self, steps: int) -> Tensor:
        if not 1 <= steps <= len(self._levels):
            raise ValueError(f"steps={steps}: needs 1 to {len(self._levels)} steps")
        self.pipe.scheduler.set_timesteps(steps)
        return torch.cat([self._levels[self.pipe.scheduler.timesteps.cpu()], torch.zeros(1)]).to(self.device)

    def conditional(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        level = sigma.detach().to(self._levels)
        timestep = (self._levels - level).abs().argmin().to(x.device)
        scale = self.input_scale(sigma.float()).to(x.dtype)
        out = self.denoiser(x / scale, timestep, encoder_hidden_states=cond.embeds, return_dict=False,
                            **self.extra(cond))[0]  # fmt: skip
        if self.pipe.scheduler.config.prediction_type == "epsilon":
            return out
        return out / scale + x * sigma / scale**2  # v = alpha eps - s x0 (Salimans and Ho), solved for eps

    def noised(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return x0 + sigma * noise

    def level(self, u: float) -> Tensor:
        return self._levels[min(int(u * len(self._levels)), len(self._levels) - 1)].to(self.device)

    def text_layers(self) -> dict[str, str]:
        return {f"{name}.{part}": "embeds" for name in self.text_attention() for part in ("to_k", "to_v")}

    def extra(self, cond: Cond) -> dict:
        """Further arguments of the U-Net."""
        return {}

    def input_scale(self, sigma: Tensor) -> Tensor:
        return (1 + sigma**2).sqrt()

    def noise_prediction(self, x: Tensor, sigma: Tensor, slope: Tensor) -> Tensor:
        return slope

    def grid(self, x: Tensor) -> Tensor:
        return x

    def text_attention(self) -> list[str]:
        return _as_they_run([name for name, _ in self.denoiser.named_modules() if name.endswith(".attn2")])

    def token_counts(self, prompts: list[str]) -> Tensor:
        return torch.tensor(
            [
                len(row)
                for row in self.pipe.tokenizer(prompts, truncation=True, max_length=self.max_tokens + 1).input_ids
            ]
        )

    def decode(self, x: Tensor) -> Tensor:
        return self.from_vae(x)


def _as_they_run(names: list[str]) -> list[str]:
    """Modules of a U-Net in the order of a forward: it lists its middle after its way up."""
    return sorted(names, key=lambda name: ("down", "mid", "up").index(name.partition("_")[0]))
