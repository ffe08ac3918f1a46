"""Prompts as a denoiser reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cond:
    """Encoded prompts: tensors whose first dimension is the prompt."""

    embeds: Tensor  # [n, tokens, dim]
    pooled: Tensor | None = None  # [n, dim]

    def __len__(self) -> int:
        return len(self.embeds)

    @classmethod
    def cat(cls, parts: Sequence[Cond]) -> Cond:
        """The prompts of all parts, in their order."""
        columns = {f.name: [getattr(p, f.name) for p in parts] for f in fields(cls)}
        return cls(**{name: None if column[0] is None else torch.cat(column) for name, column in columns.items()})

    def __getitem__(self, index) -> Cond:
        return type(self)(**{f.name: None if (v := getattr(self, f.name)) is None else v[index] for f in fields(self)})


def check_prompts(prompts: Sequence[str]) -> list[str]:
    """``prompts`` as a list. Raises ValueError for none at all and TypeError for a bare string or a non-string.

    The empty prompt itself is a prompt: it conditions on nothing.
    """
    if isinstance(prompts, str):
        raise TypeError("prompts: give a list of strings, not one string")
    prompts = list(prompts)
    if not prompts:
        raise ValueError("prompts is empty; give at least one prompt")
    for i, p in enumerate(prompts):
        if not isinstance(p, str):
            raise TypeError(f"prompts[{i}] is {type(p).__name__}, not a string")
    return prompts
