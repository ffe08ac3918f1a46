"""A tiny, randomly initialised FluxPipeline of the real classes: built here, nothing is downloaded."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

from uniforget_lib.models import FluxAdapter
from uniforget_lib.testbed.flow import FlowModel
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
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0), vae=vae, text_encoder=model.clip.eval(),
        tokenizer=model.clip_tokenizer, text_encoder_2=model.t5.eval(), tokenizer_2=model.t5_tokenizer,
        transformer=model.transformer,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return FluxAdapter(pipe.to(dtype=dtype))


@pytest.fixture
def tiny() -> FluxAdapter:
    return tiny_flux()
