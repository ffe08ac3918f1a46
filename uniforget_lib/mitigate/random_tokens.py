"""Random words in the prompt (Somepalli et al., NeurIPS 2023, arXiv 2305.20086): a memory hangs on its caption, word by
word; a caption with other words in it is not the one that was learnt."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from torch import Tensor

from ..models.base import ModelAdapter
from ._sampling import check_counts, check_sampling

KINDS = ("words", "repeat", "numbers")


def random_tokens(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    *,
    count: int = 2,
    kind: str = "words",
    words: Sequence[str] | None = None,
    steps: int = 4,
    seed: int = 0,
    batch: int = 64,
) -> Tensor:
    """Sample the prompts of `augmented`, with ``count`` words put in at random places.

    Costs what plain sampling costs: 1 denoiser evaluation a step and prompt, 2 with guidance. ``count=0`` changes
    nothing. Words count against the length that the model reads: behind a long prompt they are cut off, within it they
    push others out.

    Args:
        kind: "words", random words (the paper's RTA); "repeat", words of the prompt itself (CWR; an empty prompt has
            none and stays empty); "numbers", those from 0 to 99999 (RNA).
        words: to choose from; the tokenizer's (`ModelAdapter.vocabulary`) if none; the authors draw from all of its tokens, fragments too. In the testbed's small vocabulary there are the names of the
            planted items: a list of neutral words keeps one memory from being called in place of another.
        seed: of the noise and of the words.

    Returns:
        images [n, 3, H, W] in [0, 1].
    """
    prompts = check_sampling(adapter, prompts, steps=steps, batch=batch)
    _check(count, kind, words)
    if kind == "words" and words is None:
        words = adapter.vocabulary()
    return adapter.images(augmented(prompts, count=count, kind=kind, words=words, seed=seed),
                          steps=steps, seed=seed, batch=batch)  # fmt: skip


def augmented(prompts: Sequence[str], *, count: int = 2, kind: str = "words", words: Sequence[str] | None = None,
              seed: int = 0) -> list[str]:  # fmt: skip
    """``prompts`` with ``count`` words more each, one after the other at any place, the ends included; see
    `random_tokens`.

    Prompt i gets what ``random.Random(10007 seed + i)`` draws, whatever the other prompts are.
    """
    _check(count, kind, words)
    if kind == "words" and words is None:
        raise ValueError("words is None: give the words to choose from, such as adapter.vocabulary()")
    return [_augment(p, count, kind, words, Random(10007 * seed + i)) for i, p in enumerate(prompts)]


def _augment(prompt: str, count: int, kind: str, words: Sequence[str] | None, random: Random) -> str:
    parts = prompt.split(" ") if prompt else []
    pool = list(words) if kind == "words" else list(filter(None, parts))
    if kind == "repeat" and not pool:
        return prompt
    for _ in range(count):
        word = str(random.randrange(100_000)) if kind == "numbers" else random.choice(pool)
        parts.insert(random.randint(0, len(parts)), word)
    return " ".join(parts)


def _check(count: int, kind: str, words: Sequence[str] | None) -> None:
    check_counts(0, count=count)
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: use one of {KINDS}")
    if words is None:
        return
    if kind != "words":
        raise ValueError(f"words were given, which kind={kind!r} does not use")
    if isinstance(words, str) or not all(isinstance(w, str) for w in words):
        raise TypeError("words: give a list of strings")
    if not len(words):
        raise ValueError("words is empty; give at least one word")
