"""Tiny, randomly initialised pipelines of the real classes: built here, nothing is downloaded."""

import os

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from uniforget_lib.models import (
    FluxAdapter,
    StableDiffusion3Adapter,
    StableDiffusionAdapter,
    StableDiffusionXLAdapter,
)
from uniforget_lib.testbed.flow import FlowModel
from uniforget_lib.testbed.text import CLIP_UNET_DIM, MAX_LENGTH, clip_tokenizer
from uniforget_lib.testbed.unet import UNetModel, scheduler
from uniforget_lib.testbed.vae import CHANNELS, build


@pytest.fixture(scope="session", autouse=True)
def threads():
    """Two, or one for each of several workers of pytest-xdist: more would wait for each other."""
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


def tiny_flux(seed: int = 0, dtype: torch.dtype = torch.float32) -> FluxAdapter:
    """One double and one single block of two heads, all weights random, so that every gate matters."""
    torch.manual_seed(seed)
    model, vae = FlowModel(heads=2, double=1, single=1), build()
    vae.register_to_config(scaling_factor=1.0, shift_factor=0.0)
    for p in model.transformer.parameters():
        torch.nn.init.normal_(p, std=0.1)
    pipe = model.eval().pipeline(vae)
    pipe.set_progress_bar_config(disable=True)
    return FluxAdapter(pipe.to(dtype=dtype))


def tiny_sd(seed: int = 0, dtype: torch.dtype = torch.float32) -> StableDiffusionAdapter:
    """Two levels of one transformer block each way; weights large enough that every gate matters."""
    torch.manual_seed(seed)
    model, vae = UNetModel().eval(), build()
    model.unet = UNet2DConditionModel(  # cross-attention on every level, as in Stable Diffusion
        sample_size=16, in_channels=CHANNELS, out_channels=CHANNELS, layers_per_block=1, block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=CLIP_UNET_DIM, attention_head_dim=(2, 4), norm_num_groups=16,
    )  # fmt: skip
    vae.register_to_config(scaling_factor=1.0, shift_factor=0.0)
    for p in model.unet.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.05)
    torch.nn.init.normal_(model.clip.embeddings.token_embedding.weight)  # and every word tells, untrained as it is
    pipe = model.pipeline(vae)
    pipe.set_progress_bar_config(disable=True)
    return StableDiffusionAdapter(pipe.to(dtype=dtype), guidance=1.0)


def _clip(projected: bool):
    """A tokenizer and a one-layer text encoder, with a projected pooled state or without."""
    tokenizer = clip_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, projection_dim=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=MAX_LENGTH, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return tokenizer, (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def _random(module, std: float) -> None:
    for p in module.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=std)


def tiny_sdxl(seed: int = 0, dtype: torch.dtype = torch.float32) -> StableDiffusionXLAdapter:
    """Two levels, one with two transformer blocks; two text encoders, the second one with a pooled state."""
    torch.manual_seed(seed)
    (first, encoder), (second, encoder_2), vae = _clip(False), _clip(True), build()
    vae.register_to_config(scaling_factor=1.0, shift_factor=0.0)
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=8, out_channels=8, layers_per_block=1, block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2), attention_head_dim=(2, 4), use_linear_projection=True, norm_num_groups=16,
        cross_attention_dim=64, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,
    ).eval()  # fmt: skip
    _random(unet, 0.05)
    pipe = StableDiffusionXLPipeline(
        vae=vae, text_encoder=encoder, text_encoder_2=encoder_2, tokenizer=first, tokenizer_2=second, unet=unet,
        scheduler=scheduler(), force_zeros_for_empty_prompt=True, add_watermarker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return StableDiffusionXLAdapter(pipe.to(dtype=dtype), guidance=1.0)


def tiny_sd3(seed: int = 0, dtype: torch.dtype = torch.float32) -> StableDiffusion3Adapter:
    """Two joint blocks, the last of which gives up the text; no T5."""
    torch.manual_seed(seed)
    (first, encoder), (second, encoder_2), vae = _clip(True), _clip(True), build()
    vae.register_to_config(scaling_factor=1.0, shift_factor=0.0)
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=8, out_channels=8, num_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=64,
        pos_embed_max_size=16,
    ).eval()  # fmt: skip
    _random(transformer, 0.1)
    pipe = StableDiffusion3Pipeline(
        vae=vae, text_encoder=encoder, text_encoder_2=encoder_2, tokenizer=first, tokenizer_2=second,
        text_encoder_3=None, tokenizer_3=None, transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return StableDiffusion3Adapter(pipe.to(dtype=dtype), guidance=1.0)


TINY = {
    "flux": tiny_flux,
    "sd": tiny_sd,
    "sdxl": tiny_sdxl,
    "sd3": tiny_sd3,
}  # one a family: contract tests run over all of them


def own_folder(path, table):
    path.mkdir(exist_ok=True)
    for name, colour in (("a.png", "red"), ("b.png", "green"), ("c.jpg", "blue")):
        Image.new("RGB", (90, 70), colour).save(path / name)
    (path / "items.csv").write_text(table)
    return path


TABLE = "file,caption,copies\na.png,My Dog Rex!,20\nb.png,our red house,0\nc.jpg,the cafe 24,0\n"


UNETS = ("sd", "sdxl")  # they have cross-attention, and no adaptive norm that the paper masks


def hooks(adapter) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in adapter.denoiser.modules())


def call(adapter, prompt: str, seed: int, **options):
    """The pipeline's own call, without any code of ours; output as a tensor."""
    family = {"flux": {"height": 64, "width": 64, "max_sequence_length": 16}, "sd": {"guidance_scale": 1.0},
              "sdxl": {"guidance_scale": 1.0}, "sd3": {"guidance_scale": 1.0}}  # fmt: skip
    options = {"output_type": "pt"} | family[adapter.family] | options
    return adapter.pipe(prompt, generator=torch.Generator().manual_seed(seed), **options).images


@pytest.fixture(params=TINY)
def tiny(request):
    """Every family in turn."""
    return TINY[request.param]()


@pytest.fixture
def flux() -> FluxAdapter:
    return tiny_flux()


@pytest.fixture
def sd() -> StableDiffusionAdapter:
    return tiny_sd()
