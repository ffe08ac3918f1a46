"""Denoisers that have lost units: what a configuration does not say about them, so that they load again."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

STATE = "uniforget.json"  # beside model_index.json


class KeptRows(nn.Module):
    """A Linear that computes only some of its outputs; the others are 0. What is left of an adaptive norm."""

    def __init__(self, in_features: int, out_features: int, rows: Tensor, bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(len(rows), in_features), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(len(rows)), requires_grad=False) if bias else None
        self.register_buffer("rows", rows)

    def forward(self, x: Tensor) -> Tensor:
        kept = nn.functional.linear(x, self.weight, self.bias)
        return kept.new_zeros(*kept.shape[:-1], self.out_features).index_copy(-1, self.rows, kept)


def replace(denoiser: nn.Module, name: str, new: nn.Module) -> None:
    """Put ``new`` in the place of the module ``name``."""
    parent, _, child = name.rpartition(".")
    setattr(denoiser.get_submodule(parent), child, new.train(denoiser.training).requires_grad_(False))


def describe(denoiser: nn.Module) -> dict[str, dict]:
    """What tells ``denoiser`` from a fresh one of its configuration: sizes of Linears, kept rows of norms, heads.

    Empty where nothing was removed.
    """
    with torch.device("meta"):
        fresh = type(denoiser).from_config(denoiser.config)
    found: dict[str, dict] = {"linear": {}, "rows": {}, "heads": {}}
    for name, module in denoiser.named_modules():
        if isinstance(module, KeptRows):
            found["rows"][name] = len(module.rows)
        elif isinstance(module, nn.Linear):
            size = [module.in_features, module.out_features]
            before = fresh.get_submodule(name)
            if size != [before.in_features, before.out_features]:
                found["linear"][name] = size
        elif isinstance(getattr(module, "heads", None), int) and module.heads != fresh.get_submodule(name).heads:
            found["heads"][name] = module.heads
    return found if any(found.values()) else {}


def rebuild(path: Path, part: str, dtype: torch.dtype) -> nn.Module:
    """The denoiser that was saved in ``path/part``, as ``path/uniforget.json`` describes it.

    Raises ValueError when the two do not belong together.
    """
    described = json.loads((path / STATE).read_text())
    config = json.loads((path / part / "config.json").read_text())
    denoiser = getattr(diffusers, config["_class_name"]).from_config(config)
    for name, (inputs, outputs) in described["linear"].items():
        replace(denoiser, name, nn.Linear(inputs, outputs, bias=denoiser.get_submodule(name).bias is not None))
    for name, kept in described["rows"].items():
        old = denoiser.get_submodule(name)
        rows = torch.zeros(kept, dtype=torch.long)
        replace(denoiser, name, KeptRows(old.in_features, old.out_features, rows, old.bias is not None))
    for name, heads in described["heads"].items():
        denoiser.get_submodule(name).heads = heads
    state = {}
    for file in sorted((path / part).glob("*.safetensors")):
        state |= load_file(file)
    try:
        denoiser.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path / part} does not fit {path / STATE}: {error}") from None
    return nn.Module.to(
        denoiser, dtype
    ).eval()  # diffusers' own warns of modules to be kept in fp32, of which there are none
