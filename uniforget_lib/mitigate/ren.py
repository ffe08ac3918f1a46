"""Attention away from what triggers a memory (Ren et al., ECCV 2024, arXiv 2403.11052): drop the tokens behind the
prompt, on which memorized prompts keep the image's attention, and raise the begin token, on which others settle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..models.base import ModelAdapter
from ._sampling import check_range, check_sampling, sample

DROPS = ("padding", "summary", None)


def ren(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    *,
    begin: float = 1.25,
    drop: str | None = "padding",
    steps: int = 4,
    seed: int = 0,
    batch: int = 64,
) -> Tensor:
    """Sample with attention as `reweighted` makes it, at every step and in every layer in which the image reads the
    prompt.

    As in the authors' code, tokens are dropped under the empty prompt of the guidance too (those behind the length of
    the prompt itself), while the begin token is raised under the prompt only. Costs what plain sampling costs: 1
    denoiser evaluation a step and prompt, 2 with guidance. ``begin=1, drop=None`` changes nothing.

    Args:
        begin: factor c1 of the begin token's logit; drop: see `reweighted`.

    Returns:
        images [n, 3, H, W] in [0, 1].
    """
    prompts = check_sampling(adapter, prompts, steps=steps, batch=batch)
    _check(begin, drop)
    cond, lengths = adapter.encode(prompts), adapter.prompt_lengths(prompts)

    def predict(x: Tensor, sigma: Tensor, part: slice) -> Tensor:
        with reweighted(adapter, lengths[part], begin=begin, drop=drop):
            given = adapter.conditional(x, sigma, cond[part])
        if adapter.cfg == 1:
            return given
        with reweighted(adapter, lengths[part], begin=1.0, drop=drop):
            empty = adapter.conditional(x, sigma, adapter.empty(len(x)))
        return empty + adapter.cfg * (given - empty)

    return sample(adapter, len(prompts), lambda: predict, steps=steps, seed=seed, batch=batch)


@contextmanager
def reweighted(adapter: ModelAdapter, lengths: Tensor, *, begin: float = 1.25,
               drop: str | None = "padding") -> Iterator[None]:  # fmt: skip
    """Inside, the image attends otherwise to the prompt; for forwards of n prompts with these ``lengths``, int [n].

    The logit of the begin token is multiplied by ``begin`` before the softmax (so a negative one falls), and dropped
    tokens have no weight. ``drop``: "padding", what is behind the end token, as in the command that the authors give;
    "summary", the end token too (their ``--mask_length_minis1``); None, nothing.

    Cross-attention (Stable Diffusion, XL) is the paper's case. Joint attention (FLUX, SD3) is an analogue of ours: only
    queries of the image are treated, text reads all text as before, so padding still acts by way of the words. T5 has
    no begin token: on FLUX, ``begin`` does nothing. Of SD3's text, CLIP's part is treated, the part of T5 behind it is
    not.

    No part of the model is replaced. Raises ValueError for an attention that has a mask already, and RuntimeError at
    the end of the block when no attention was seen.
    """
    _check(begin, drop)
    text = adapter.empty(1).embeds.shape[1]
    place = torch.arange(text)
    behind = place >= (lengths[:, None] - int(drop == "summary")) if drop else torch.zeros(len(lengths), text).bool()
    keep = ~(behind & (place < adapter.max_tokens))
    factor = torch.where(place < adapter.begin, begin, 1.0)
    mode, handles = _Reweighted(factor.to(adapter.device), keep.to(adapter.device), adapter.text_first), []

    def enter(module, args):
        mode.running = True

    def leave(module, args, out):
        mode.running = False

    try:
        for name in adapter.text_attention():
            module = adapter.denoiser.get_submodule(name)
            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
        with mode:
            yield
        if not mode.seen:
            raise RuntimeError("no attention was seen: nothing ran, or the pipeline computes attention by other means "
                               "than torch's scaled_dot_product_attention (xformers); switch them off")  # fmt: skip
    finally:
        for handle in handles:
            handle.remove()


class _Reweighted(TorchFunctionMode):
    """Changes the scaled dot product attention that is computed while a module of interest runs.

    factor: [text], what the logit of each text token is multiplied by; keep: [n, text], whether it is read.
    """

    def __init__(self, factor: Tensor, keep: Tensor, text_first: bool) -> None:
        super().__init__()
        self.factor, self.keep, self.text_first, self.running, self.seen = factor, keep, text_first, False, False
        self.full = bool(keep.all())  # no mask is needed
        self.plain = self.full and bool((factor == 1).all())

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or not self.running:
            return func(*args, **kwargs)
        self.seen = True
        if self.plain:
            return func(*args, **kwargs)
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        options = dict(zip(names, args)) | kwargs
        if options.pop("attn_mask", None) is not None:
            raise ValueError("the attention of this pipeline has a mask, which this mitigation does not know")
        return self.change(func, **options)

    def change(self, func, query: Tensor, key: Tensor, value: Tensor, **options) -> Tensor:
        """query, key, value: [n, heads, tokens, channels]."""
        rest = key.shape[2] - len(self.factor)  # image tokens in the same sequence; 0 in cross-attention
        factor, keep = self.factor.to(key.dtype), self.keep
        if rest:
            factor = self.join(factor, factor.new_ones(rest))
            keep = self.join(keep, keep.new_ones(len(keep), rest))
        words, image = query[:, :, :0], query
        if rest and self.text_first:
            words, image = query[:, :, :-rest], query[:, :, -rest:]
        elif rest:
            image, words = query[:, :, :rest], query[:, :, rest:]
        # a logit is a product with its key, so the key may be scaled instead
        mask = None if self.full else keep[:, None, None]
        read = func(image, key * factor[:, None], value, attn_mask=mask, **options)
        return self.join(func(words, key, value, **options), read, dim=2) if rest else read

    def join(self, text: Tensor, image: Tensor, dim: int = -1) -> Tensor:
        """One sequence, in the order of the model."""
        return torch.cat([text, image] if self.text_first else [image, text], dim=dim)


def _check(begin: float, drop: str | None) -> None:
    check_range(0, 1e3, begin=begin)
    if drop not in DROPS:
        raise ValueError(f"drop={drop!r}: use one of {DROPS}")
