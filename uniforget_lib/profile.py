"""How large a notebook runs: ``cpu`` (the published book and CI), ``colab`` (a T4-class GPU), ``full`` (80 GB)."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from .files import check_device


@dataclass(frozen=True)
class Profile:
    """``seeds`` a prompt, ``prompts`` a group, and the device they run on."""

    name: str
    device: str
    seeds: int
    prompts: int


PROFILES = {
    "cpu": Profile("cpu", "cpu", seeds=2, prompts=64),
    "colab": Profile("colab", "cuda", seeds=4, prompts=96),
    "full": Profile("full", "cuda", seeds=8, prompts=96),
}


def profile(name: str = "auto") -> Profile:
    """The profile of that name; ``UNIFORGET_PROFILE`` in the environment wins, ``auto`` looks for a GPU.

    Raises ValueError for a name that does not exist, RuntimeError for a GPU that is not there.
    """
    name = os.environ.get("UNIFORGET_PROFILE", name)
    if name == "auto":
        if not torch.cuda.is_available():
            name = "cpu"
        else:
            name = "full" if torch.cuda.get_device_properties(0).total_memory > 60 * 2**30 else "colab"
    if name not in PROFILES:
        raise ValueError(f"profile {name!r}: use 'auto' or one of {sorted(PROFILES)}")
    check_device(PROFILES[name].device)
    return PROFILES[name]
