"""Tiny, randomly initialised pipelines of the real classes: built here, nothing is downloaded."""

import pytest
import torch

from uniforget_lib.models import FluxAdapter, StableDiffusionAdapter
from uniforget_lib.testbed.flow import FlowModel
from uniforget_lib.testbed.unet import UNetModel
from uniforget_lib.testbed.vae import build


@pytest.fixture(scope="session", autouse=True)
def two_threads():
    torch.set_num_threads(2)


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
    model, vae = UNetModel(widths=(32, 64)).eval(), build()
    vae.register_to_config(scaling_factor=1.0, shift_factor=0.0)
    for p in model.unet.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.05)
    pipe = model.pipeline(vae)
    pipe.set_progress_bar_config(disable=True)
    return StableDiffusionAdapter(pipe.to(dtype=dtype), guidance=1.0)


TINY = {"flux": tiny_flux, "sd": tiny_sd}  # one a family: contract tests run over all of them


def call(adapter, prompt: str, seed: int, **options):
    """The pipeline's own call, without any code of ours; output as a tensor."""
    family = {"flux": {"height": 64, "width": 64, "max_sequence_length": 16}, "sd": {"guidance_scale": 1.0}}
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
