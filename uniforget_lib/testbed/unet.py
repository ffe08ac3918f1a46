"""The U-Net family of the testbed: a noise-predicting U-Net with cross-attention, sold as a StableDiffusionPipeline."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn

from . import text
from .vae import CHANNELS


def build_unet(widths: tuple[int, int], heads: tuple[int, int] = (2, 4)) -> UNet2DConditionModel:
    """Two levels (16 x 16 and 8 x 8 cells), one residual and one transformer block each; GEGLU feed-forwards."""
    return UNet2DConditionModel(
        sample_size=16, in_channels=CHANNELS, out_channels=CHANNELS, layers_per_block=1, block_out_channels=widths,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=text.CLIP_UNET_DIM, attention_head_dim=heads, norm_num_groups=16,
    )  # fmt: skip


def scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, with timesteps that end in pure noise."""
    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=True, timestep_spacing="trailing", steps_offset=1,
    )  # fmt: skip


class UNetModel(nn.Module):
    """Text encoder and U-Net, trained jointly.

    ``forward(x, timestep, ids)``: x [n, 8, 16, 16] noised latents, timestep [n] in 0 ... 999, ids [n, L]
    -> predicted noise [n, 8, 16, 16].
    """

    def __init__(self, widths: tuple[int, int] = (64, 128), words: Sequence[str] = ()) -> None:
        super().__init__()
        self.tokenizer = text.clip_tokenizer(words)
        self.clip = text.clip_encoder(self.tokenizer, text.CLIP_UNET_DIM)
        self.unet = build_unet(widths)
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
        """Mean squared error of the predicted noise (Ho et al., 2020) at timestep 1000 u, u [n] uniform in [0, 1]."""
        timestep = (u * len(self.alphas)).long().clamp(max=len(self.alphas) - 1)
        alpha = self.alphas.to(u.device)[timestep].view(-1, 1, 1, 1)
        predicted = self(alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise, timestep, *ids)
        return F.mse_loss(predicted.float(), noise)

    def pipeline(self, vae: AutoencoderKL) -> StableDiffusionPipeline:
        """The plain pipeline of the trained model."""
        return StableDiffusionPipeline(
            vae=vae, text_encoder=self.clip, tokenizer=self.tokenizer, unet=self.unet, scheduler=scheduler(),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
