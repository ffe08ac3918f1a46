"""The flow family of the testbed: a rectified flow on FLUX's own transformer class, sold as a plain FluxPipeline."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import nn

from . import text
from .vae import CHANNELS

SIZES = {"small": {"heads": 3, "double": 1, "single": 3}, "tiny": {"heads": 2, "double": 1, "single": 1}}


def build_transformer(heads: int, double: int, single: int) -> FluxTransformer2DModel:
    """A FluxTransformer2DModel whose gates and output start at zero (each block starts as the identity)."""
    model = FluxTransformer2DModel(
        patch_size=1, in_channels=4 * CHANNELS, num_layers=double, num_single_layers=single, attention_head_dim=32,
        num_attention_heads=heads, joint_attention_dim=text.T5_DIM, pooled_projection_dim=text.CLIP_DIM,
        guidance_embeds=False, axes_dims_rope=(8, 12, 12),
    )  # fmt: skip
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    zero = [b.norm.linear for b in model.single_transformer_blocks] + [model.norm_out.linear, model.proj_out]
    for block in model.transformer_blocks:
        zero += [block.norm1.linear, block.norm1_context.linear]
    for linear in zero:
        nn.init.zeros_(linear.weight)
    return model


class FlowModel(nn.Module):
    """Text encoders and transformer, trained jointly.

    ``forward(x, sigma, ids)``: x [n, 8, 16, 16] noised latents, sigma [n] in [0, 1], ids = (clip [n, L], t5 [n, L])
    -> velocity dx/dsigma [n, 8, 16, 16].
    """

    def __init__(self, heads: int = 5, double: int = 2, single: int = 4,  # heads of 32 channels
                 words: Sequence[str] = ()) -> None:  # fmt: skip
        super().__init__()
        self.clip_tokenizer, self.t5_tokenizer = text.clip_tokenizer(words), text.t5_tokenizer(words)
        self.clip, self.t5 = text.clip_encoder(self.clip_tokenizer), text.t5_encoder(self.t5_tokenizer)
        self.transformer = build_transformer(heads, double, single)

    @property
    def denoiser(self) -> FluxTransformer2DModel:
        return self.transformer

    def tokenize(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        return text.tokenize(self.clip_tokenizer, self.t5_tokenizer, captions)

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, ids: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        n, c, h, w = x.shape
        packed = FluxPipeline._pack_latents(x, n, c, h, w)
        velocity = self.transformer(
            hidden_states=packed,
            timestep=sigma,
            encoder_hidden_states=self.t5(input_ids=ids[1]).last_hidden_state,
            pooled_projections=self.clip(input_ids=ids[0]).pooler_output,
            txt_ids=torch.zeros(ids[1].shape[1], 3, device=x.device),
            img_ids=FluxPipeline._prepare_latent_image_ids(n, h // 2, w // 2, x.device, torch.float32),
            return_dict=False,
        )[0]
        return velocity.view(n, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w)

    def loss(self, x0: torch.Tensor, noise: torch.Tensor, u: torch.Tensor, ids) -> torch.Tensor:
        """Rectified flow: mean squared error of the velocity at sigma = u, [n] uniform in [0, 1]."""
        velocity = self(x0.lerp(noise, u.view(-1, 1, 1, 1)), u, ids)
        return F.mse_loss(velocity.float(), noise - x0)

    def pipeline(self, vae: AutoencoderKL) -> FluxPipeline:
        """The plain pipeline of the trained model."""
        return FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0), vae=vae, text_encoder=self.clip,
            tokenizer=self.clip_tokenizer, text_encoder_2=self.t5, tokenizer_2=self.t5_tokenizer,
            transformer=self.transformer,
        )  # fmt: skip
