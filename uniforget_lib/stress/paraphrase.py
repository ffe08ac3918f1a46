"""Paraphrase: say the prompt a little otherwise, many times, and see whether the picture comes back. No gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from ..models.base import Cond, ModelAdapter, check_prompts
from ..progress import progress
from ._recovery import Recovery

KINDS = ("words", "tokens", "noise")


def paraphrase(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    *,
    kind: str = "words",
    strength: float = 0.25,
    variants: int = 8,
    seeds: Sequence[int] = (100, 101),
    sampling_steps: int = 8,
    seed: int = 0,
) -> Recovery:
    """Draw every prompt as it is and then in ``variants`` seeded variants of its own.

    Efforts are how many variants of a prompt were tried: ``images[k]`` is what variant k draws, ``images[0]`` what the
    prompt itself does, and a picture is recovered at effort k if *any* of ``images[: k + 1]`` is a copy of it. There
    are no losses. The more tries, the more chances: the twin must get as many.

    Args:
        kind: ``words``: words are dropped, doubled, or change places with the next one. ``tokens``: random words of
            the tokenizer's come in between. ``noise``: Gaussian noise on the embedding, pooled part and padding included.
        strength: above 0. ``words``: how many edits, ``tokens``: how many come in, as a share of the prompt's words,
            one at least. ``noise``: its root mean square over that of the prompt's embedding, for each part of it.
        seeds: starting noises, the same for all variants.

    Raises ValueError for another kind, numbers that are not positive and, for ``words``, a prompt without any.
    """
    prompts = check_prompts(prompts)
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: use one of {KINDS}")
    for name, value in {"strength": strength, "variants": variants, "sampling_steps": sampling_steps}.items():
        if not value > 0:
            raise ValueError(f"{name}={value}: must be positive")
    with torch.no_grad():
        start = adapter.encode(prompts)
    found = Recovery()
    for k in progress(range(variants + 1), desc="paraphrases"):
        cond = start
        if k and kind == "noise":
            cond = shaken(start, strength, seed=seed, k=k)
        elif k:
            with torch.no_grad():
                cond = adapter.encode(reworded(adapter, prompts, kind, strength, seed=seed, k=k))
        found.efforts.append(k)
        found.images.append(torch.stack([adapter.images(cond, steps=sampling_steps, seed=s) for s in seeds]))
    return found


def reworded(
    adapter: ModelAdapter, prompts: Sequence[str], kind: str, strength: float, *, seed: int, k: int
) -> list[str]:
    """Variant ``k`` of every prompt, as `paraphrase` draws it for the kinds ``words`` and ``tokens``."""
    if kind == "words":
        return [edited(p, strength, _generator(seed, k, i)) for i, p in enumerate(prompts)]
    known = adapter.vocabulary()
    return [inserted(p, strength, known, _generator(seed, k, i)) for i, p in enumerate(prompts)]


def edited(prompt: str, strength: float, generator: torch.Generator) -> str:
    """``prompt`` after about strength * words edits, each of a random word: dropped, doubled, or swapped with the next.

    It differs from the prompt. A single word can only be doubled. Raises ValueError for a prompt without words.
    """
    start = prompt.split()
    if not start:
        raise ValueError(f"the prompt {prompt!r} has no words to edit; use kind='tokens' or 'noise'")
    words = start
    while words == start:
        words = list(start)
        for _ in range(_count(strength, len(start))):
            edit = _below(3, generator) if len(words) > 1 else 1
            at = _below(len(words) - (edit == 2), generator)
            if edit == 0:
                del words[at]
            elif edit == 1:
                words.insert(at, words[at])
            else:
                words[at], words[at + 1] = words[at + 1], words[at]
    return " ".join(words)


def inserted(prompt: str, strength: float, known: Sequence[str], generator: torch.Generator) -> str:
    """``prompt`` with about strength * words random words of ``known`` in between; its own keep their order."""
    words = prompt.split()
    for _ in range(_count(strength, len(words))):
        words.insert(_below(len(words) + 1, generator), known[_below(len(known), generator)])
    return " ".join(words)


def shaken(cond: Cond, strength: float, *, seed: int, k: int) -> Cond:
    """``cond`` with Gaussian noise, whose expected mean square is strength^2 times that of each row of each part."""

    def noisy(part: Tensor, column: int) -> Tensor:
        rows = [torch.randn(row.shape, generator=_generator(seed, k, 2 * i + column)) for i, row in enumerate(part)]
        size = part.float().flatten(1).pow(2).mean(1).sqrt().view(-1, *[1] * (part.dim() - 1))
        return (part.float() + strength * size * torch.stack(rows).to(part.device)).to(part.dtype)

    parts = {f.name: getattr(cond, f.name) for f in fields(cond)}
    return type(cond)(**{name: None if v is None else noisy(v, j) for j, (name, v) in enumerate(parts.items())})


def _generator(seed: int, k: int, i: int) -> torch.Generator:
    """Of variant ``k`` of prompt ``i``, whatever other prompts there are."""
    return torch.Generator().manual_seed((seed * 1_000_003 + k) * 10_007 + i)


def _count(strength: float, words: int) -> int:
    """How many edits: one at least."""
    return max(1, round(strength * words))


def _below(high: int, generator: torch.Generator) -> int:
    return int(torch.randint(high, (), generator=generator))
