"""Hooks that leave no trace: masking and recording as context managers. Weights are never touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .masks import Mask, Score
from .sites import KINDS, Site

if TYPE_CHECKING:
    from .models.base import ModelAdapter


def _scales(adapter: ModelAdapter, gates: dict[str, Tensor]) -> dict[tuple[str, str], Tensor]:
    """(Linear name, "input" | "output") -> one factor a channel. Fused layers collect the gates of all their sites."""
    sites = {s.name: s for s in adapter.sites(KINDS)}
    unknown = sorted(gates.keys() - sites.keys())
    if unknown:
        raise ValueError(f"mask names sites that this model does not have: {unknown[:3]} ...")
    scales: dict[tuple[str, str], Tensor] = {}
    dtype = adapter.dtype  # not that of a weight: see `load(storage=)`
    for name, gate in gates.items():
        site = sites[name]
        if gate.shape != (site.units,):
            raise ValueError(f"mask of site {name!r} has shape {list(gate.shape)}, the site has {site.units} units")
        factor = gate.repeat_interleave(site.width)
        side = "input" if site.readers else "output"
        for ref in site.masked_refs:
            module = adapter.denoiser.get_submodule(ref.linear)
            size = module.in_features if side == "input" else module.out_features
            whole = torch.cat([factor.new_ones(ref.start), factor, factor.new_ones(size - ref.stop)])
            whole = whole.to(module.weight.device, dtype)
            key = (ref.linear, side)  # a head and a value channel of it may both be masked
            scales[key] = scales[key] * whole if key in scales else whole
    return scales


@contextmanager
def masked(adapter: ModelAdapter, mask: Mask | dict[str, Tensor]) -> Iterator[ModelAdapter]:
    """Scale the units of ``adapter`` by ``mask`` inside the ``with`` block.

    Args:
        mask: a `Mask` (refused with ValueError if it is for another model), or gates by site name, through which
            gradients flow.
    """
    if isinstance(mask, Score):
        raise TypeError("this is a Score, not a mask; cut it first: score.mask(ratio=0.1)")
    if isinstance(mask, Mask):
        if mask.fingerprint != adapter.fingerprint:
            raise ValueError(f"this mask is for model {mask.fingerprint!r}, not for {adapter.fingerprint!r}; "
                             "locate again on this model")  # fmt: skip
        mask = mask.values
    handles = []
    adapter.masking += 1
    try:
        for (linear, side), scale in _scales(adapter, mask).items():
            module = adapter.denoiser.get_submodule(linear)
            if side == "input":
                handle = module.register_forward_pre_hook(lambda m, args, s=scale: (args[0] * s.to(args[0]), *args[1:]))
            else:
                handle = module.register_forward_hook(lambda m, args, out, s=scale: out * s.to(out))
            handles.append(handle)
        yield adapter
    finally:
        adapter.masking -= 1
        for handle in handles:
            handle.remove()


@contextmanager
def masked_steps(
    adapter: ModelAdapter, masks: Sequence[Mask | dict[str, Tensor]], sigmas: Tensor
) -> Iterator[ModelAdapter]:
    """`masked` with another mask at every noise level: ``masks[k]`` where sigma is nearest to ``sigmas[k]``.

    ``sigmas``: those of the sampling that the masks were found for, its final 0 included or not. A sampling with other
    steps takes the masks of the nearest levels. Raises ValueError as `masked` does, and when the two differ in length.
    """
    levels = sigmas[: len(masks)].detach().cpu()
    if not len(masks) or len(sigmas) not in (len(masks), len(masks) + 1):
        raise ValueError(f"{len(masks)} masks for {len(sigmas)} noise levels: give one mask a step")
    for mask in masks:
        with masked(adapter, mask):  # its errors, before anything runs
            pass
    plain, outer = adapter.conditional, adapter.__dict__.get("conditional")

    def conditional(x: Tensor, sigma: Tensor, cond) -> Tensor:
        nearest = int((levels - sigma.detach().cpu()).abs().argmin())
        with masked(adapter, masks[nearest]):
            return plain(x, sigma, cond)

    adapter.conditional = conditional
    adapter.masking += 1
    try:
        yield adapter
    finally:
        adapter.masking -= 1
        if outer is None:
            del adapter.conditional
        else:
            adapter.conditional = outer


@contextmanager
def recomputed(adapter: ModelAdapter) -> Iterator[None]:
    """Inside, the blocks of the denoiser are run again in a backward pass instead of keeping what they computed."""
    before = adapter.denoiser.is_gradient_checkpointing
    try:
        if not before:
            adapter.denoiser.enable_gradient_checkpointing()
        yield
    finally:
        if not before:
            adapter.denoiser.disable_gradient_checkpointing()


@contextmanager
def watch(adapter: ModelAdapter, sites: Sequence[Site], see: Callable[[Site, Tensor], None]) -> Iterator[None]:
    """Inside, ``see(site, x)`` is called with the activations [..., units * width] that a mask of the site would scale.

    Once a forward and reader (or adaptive norm): a unit with several readers is seen in each of them.
    """
    handles = []
    try:
        for site in sites:
            for ref in site.masked_refs:
                module: nn.Module = adapter.denoiser.get_submodule(ref.linear)
                if not site.readers:
                    hook = lambda m, args, out, s=site, r=ref: see(s, out[..., r.start : r.stop])  # noqa: E731
                    handles.append(module.register_forward_hook(hook))
                else:
                    hook = lambda m, args, s=site, r=ref: see(s, args[0][..., r.start : r.stop])  # noqa: E731
                    handles.append(module.register_forward_pre_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def record(adapter: ModelAdapter, sites: Sequence[Site]) -> Iterator[dict[str, Tensor]]:
    """Mean squared activation of every unit over all forwards inside the block: site name -> [units], filled at exit.

    A unit with several readers is averaged over them.
    """
    totals = {s.name: torch.zeros(s.units, dtype=torch.float64) for s in sites}
    counts = dict.fromkeys(totals, 0)
    result: dict[str, Tensor] = {}

    def add(site: Site, x: Tensor) -> None:
        x = x.detach().float().reshape(-1, site.units, site.width)
        totals[site.name] += x.pow(2).mean(-1).sum(0).double().cpu()
        counts[site.name] += len(x)

    try:
        with watch(adapter, sites, add):
            yield result
    finally:
        result.update({n: (t / max(counts[n], 1)).float() for n, t in totals.items()})


class _Attention(TorchFunctionMode):
    """Looks at every scaled dot product attention that is computed while one of the modules of interest runs."""

    def __init__(self, found: dict[str, Tensor], text_first: bool, grad: bool) -> None:
        super().__init__()
        self.found, self.text_first, self.grad, self.module, self.text = found, text_first, grad, None, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self.module:
            named = dict(zip(("query", "key", "value", "attn_mask"), args)) | kwargs
            with torch.set_grad_enabled(self.grad):
                self.found[self.module] = self.read(named["query"], named["key"], named)
        return func(*args, **kwargs)

    def read(self, query: Tensor, key: Tensor, options: dict) -> Tensor:
        text, image = slice(0, self.text), slice(0, None)
        if key.shape[2] > self.text:  # image and text in one sequence
            text, image = slice(0, self.text), slice(self.text, None)
            if not self.text_first:
                text, image = slice(-self.text, None), slice(0, -self.text)
        mask = options.get("attn_mask")
        if mask is not None:
            raise ValueError("the attention of this pipeline has a mask, which `attention` does not read")
        scale, total = options.get("scale") or query.shape[-1] ** -0.5, 0
        for head in range(query.shape[1]):  # one at a time: at full size all of them would fill the memory
            weights = ((query[:, head, image].float() * scale) @ key[:, head].float().transpose(1, 2)).softmax(-1)
            total = total + weights[..., text] / query.shape[1]
        return total


@contextmanager
def attention(adapter: ModelAdapter, *, grad: bool = False) -> Iterator[dict[str, Tensor]]:
    """How much the image attends to each token of the prompt, in the last forward inside the block.

    Yields a dict that fills as forwards run: module name (see `ModelAdapter.text_attention`) -> [n, image tokens, text
    tokens] in fp32, on the model's device, mean over heads. Cross-attention sums to 1 over the text; in joint attention the image takes its share.
    Nothing of the model is replaced, only looked at. ``grad``: gradients flow through the maps.

    Raises RuntimeError at the end of the block when no attention was seen.
    """
    found: dict[str, Tensor] = {}
    mode, handles = _Attention(found, adapter.text_first, grad), []

    def enter(name: str):
        def hook(module, args, kwargs):
            states = kwargs.get("encoder_hidden_states")
            if states is not None:  # single-stream blocks get one sequence, of the same text as the blocks before
                mode.text = states.shape[1]
            mode.module = name

        return hook

    def leave(module, args, out):
        mode.module = None

    try:
        for name in adapter.text_attention():
            module = adapter.denoiser.get_submodule(name)
            handles += [
                module.register_forward_pre_hook(enter(name), with_kwargs=True),
                module.register_forward_hook(leave, always_call=True),
            ]
        with mode:
            yield found
        if not found:
            raise RuntimeError("no attention was seen: nothing ran, or the pipeline computes attention by other means "
                               "than torch's scaled_dot_product_attention (xformers, say); switch them off")  # fmt: skip
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def count(adapter: ModelAdapter) -> Iterator[list[int]]:
    """Denoiser evaluations inside the block: yields [0], whose entry grows by the batch size at every forward."""
    total = [0]

    def hook(module, args, kwargs):
        x = args[0] if args else kwargs["hidden_states"]
        total[0] += len(x)

    handle = adapter.denoiser.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield total
    finally:
        handle.remove()
