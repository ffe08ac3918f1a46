"""The U-Net family of the testbed: a noise-predicting U-Net with cross-attention, sold as a StableDiffusionPipeline."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn

from . import text
from .vae import CHANNELS


def build_unet(widths: tuple[int, int], heads: tuple[int, int]) -> UNet2DConditionModel:
    """Two levels of 16 x 16 and 8 x 8 cells, one residual block each; the lower one with transformer blocks, which have
    cross-attention and GEGLU feed-forwards."""
    return UNet2DConditionModel(
        sample_size=16, in_channels=CHANNELS, out_channels=CHANNELS, layers_per_block=1, block_out_channels=widths,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=text.CLIP_UNET_DIM, attention_head_dim=heads, norm_num_groups=16,
    )  # fmt: skip


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, with timesteps that end in pure noise."""
    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=True, timestep_spacing="trailing", steps_offset=1,
    )  # fmt: skip


def in_fp32(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Pre-hook of a norm: autocast keeps norms in fp32 on a GPU, but not on a CPU. There the loss falls behind from the
    first hundred steps on (book/model_card.md)."""
    return tuple(x.float() for x in inputs)


class UNetModel(nn.Module):
    """Text encoder and U-Net, trained jointly.

    ``forward(x, timestep, ids)``: x [n, 8, 16, 16] noised latents, timestep [n] in 0 ... 999, ids [n, L]
    -> predicted noise [n, 8, 16, 16].
    """

    def __init__(self, widths: tuple[int, int] = (128, 160), heads: tuple[int, int] = (4, 5),
                 words: Sequence[str] = ()) -> None:  # fmt: skip
        super().__init__()
        self.tokenizer = text.clip_tokenizer(words)
        self.clip = text.clip_encoder(self.tokenizer, text.CLIP_UNET_DIM)
        self.unet = build_unet(widths, heads)
        for part in self.unet.modules():
            if isinstance(part, (nn.GroupNorm, nn.LayerNorm)):
                part.register_forward_pre_hook(in_fp32)
        self.alphas = scheduler().alphas_cumprod  # not a buffer: it is no weight

    @property
    def denoiser(self) -> UNet2DConditionModel:
        return self.unet

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        states = self.clip(input_ids=ids).last_hidden_state
        return self.unet(x, timestep, encoder_hidden_states=states, return_dict=False)[0]

    def tokenize(self, captions: list[str]) -> tuple[torch.Tensor]:
        """Token ids exactly as StableDiffusionPipeline makes them: ([n, MAX_LENGTH],)."""
        options = dict(padding="max_length", max_length=text.MAX_LENGTH, truncation=True, return_tensors="pt")
        return (self.tokenizer(captions, **options).input_ids,)

    def loss(self, x0: torch.Tensor, noise: torch.Tensor, u: torch.Tensor, ids) -> torch.Tensor:
        """Squared error of the predicted noise over alpha_bar, at timestep 1000 u, u [n] uniform in [0, 1].

        The weight is that of a velocity loss (Salimans and Ho, ICLR 2022, Appendix D): without it (Ho et al., 2020) what a
        caption decides, at high noise, hardly counts.
        """
        timestep = (u * len(self.alphas)).long().clamp(max=len(self.alphas) - 1)
        alpha = self.alphas.to(u.device)[timestep].view(-1, 1, 1, 1)
        predicted = self(alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise, timestep, *ids)
        return ((predicted.float() - noise).pow(2) / alpha).mean()

    def pipeline(self, vae: AutoencoderKL) -> StableDiffusionPipeline:
        """The plain pipeline of the trained model."""
        return StableDiffusionPipeline(
            vae=vae, text_encoder=self.clip, tokenizer=self.tokenizer, unet=self.unet, scheduler=scheduler(),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
