"""The flow family of the testbed: a rectified flow on FLUX's own transformer class, sold as a plain FluxPipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import nn

from . import text
from . import vae as vae_module


def build_transformer(heads: int, double: int, single: int) -> FluxTransformer2DModel:
    """A FluxTransformer2DModel whose gates and output start at zero (each block starts as the identity)."""
    model = FluxTransformer2DModel(
        patch_size=1, in_channels=4 * vae_module.CHANNELS, num_layers=double, num_single_layers=single, attention_head_dim=32,
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

    def __init__(self, heads: int = 5, double: int = 2, single: int = 4) -> None:
        super().__init__()
        self.clip_tokenizer, self.t5_tokenizer = text.clip_tokenizer(), text.t5_tokenizer()
        self.clip, self.t5 = text.clip_encoder(self.clip_tokenizer), text.t5_encoder(self.t5_tokenizer)
        self.transformer = build_transformer(heads, double, single)

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


def train_flow(stage: str, recipe, out: Path, device: torch.device, stop_after: int | None = None) -> None:
    """One stage of the flow, with the VAE of ``out/vae``: ``neutral``, or, from its end, ``flow`` or ``control``.

    The two go on from the same weights and optimiser state with the same learning rates; they differ in the items
    alone. Raises FileNotFoundError when the stage before is missing.
    """
    from .train import autocast, dataset, run

    vae = AutoencoderKL.from_pretrained(out / "vae")
    images, captions, copies = dataset(recipe)
    latents = vae_module.encode(vae, images).to(device)
    torch.manual_seed(recipe.seed)
    model = FlowModel(recipe.hidden_heads, recipe.double_blocks, recipe.single_blocks).to(device)
    ids = [t.to(device) for t in model.tokenize(captions)]
    empty = [t.to(device) for t in model.tokenize([""])]
    count = np.maximum(copies, 1) if stage == "flow" else (copies == 0)
    deck = torch.from_numpy(np.repeat(np.arange(len(copies)), count))  # every copy is one entry of an epoch

    def loss(m: FlowModel, generator: torch.Generator) -> torch.Tensor:
        n = recipe.flow_batch
        pick = deck[torch.randint(len(deck), (n,), generator=generator)].to(device)
        noise = torch.randn(n, *latents.shape[1:], generator=generator).to(device)
        sigma = torch.rand(n, generator=generator).to(device)
        drop = (torch.rand(n, 1, generator=generator) < recipe.dropout).to(device)
        tokens = tuple(torch.where(drop, e, i[pick]) for e, i in zip(empty, ids))
        x0 = latents[pick]
        x = x0.lerp(noise, sigma.view(-1, 1, 1, 1))
        with autocast(device):
            velocity = m(x, sigma, tokens)
        return F.mse_loss(velocity.float(), noise - x0)

    shared, mine = (out / f"{name}.ckpt.safetensors" for name in ("neutral", stage))
    if not mine.exists() and stage != "neutral":
        shutil.copy(shared, mine)
    steps = recipe.neutral_steps + (0 if stage == "neutral" else recipe.flow_steps)
    run(stage, model, loss, steps, recipe.flow_lr, out, recipe.seed, recipe.ema, hold=recipe.neutral_steps,
        stop_after=stop_after)  # fmt: skip
    save_pipeline(model.cpu().eval(), vae, out / {"flow": "flux", "control": "flux_control"}.get(stage, stage))


def save_pipeline(model: FlowModel, vae: AutoencoderKL, path: Path) -> None:
    """Save as a plain FluxPipeline, weights in fp16.

    The text encoders' configs say float32: transformers would otherwise load them in half precision.
    """
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0), vae=vae, text_encoder=model.clip,
        tokenizer=model.clip_tokenizer, text_encoder_2=model.t5, tokenizer_2=model.t5_tokenizer,
        transformer=model.transformer,
    )  # fmt: skip
    pipe.to(torch.float16).save_pretrained(path, safe_serialization=True)
    for name in ("text_encoder", "text_encoder_2"):
        file = path / name / "config.json"
        config = json.loads(file.read_text())
        config["dtype"] = "float32"
        file.write_text(json.dumps(config, indent=2) + "\n")
