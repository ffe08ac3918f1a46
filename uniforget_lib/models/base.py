"""The adapter: the only place that knows a model family. One file a family beside this one."""

from __future__ import annotations

import copy
import hashlib
import logging as python_logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from diffusers.utils import logging
from torch import Tensor, nn

from ..sampler import rollout
from ..sites import KINDS, Site
from .cond import Cond, check_prompts

# Every import of diffusers' pipelines would say that transformers' picture processors do without torchvision. None is used.
python_logging.getLogger("transformers.utils.import_utils").addFilter(lambda r: "torchvision" not in r.getMessage())


class ModelAdapter(ABC):
    """A diffusers pipeline seen as dx/dsigma. Subclasses fill in the family's methods.

    Latents ``x`` are what the denoiser takes, [n, ...]; sigma runs from noise to 0. ``cfg`` is the scale of the
    classifier-free guidance with the empty prompt; 1 is none.
    """

    family: str
    begin = 1  # tokens before the first one of a prompt that attention sees: CLIP's begin token; T5 has none
    text_first = True  # in the sequence of a joint attention; cross-attention has a sequence for each
    resolution: int  # side of the image in pixels

    def __init__(self, pipe, denoiser: nn.Module, cfg: float) -> None:
        self.pipe, self.denoiser, self.cfg = pipe, denoiser, cfg
        self._empty: dict = {}
        self.masking = 0  # how many masks are on, see `hooks.masked`
        self.offload = False  # True: what is not the denoiser waits on the CPU, see `at_hand`
        self.storage: torch.dtype | None = None  # of the denoiser's weights, where it is not the one computed in
        for part in pipe.components.values():  # text encoders and VAE too: only gates learn
            if isinstance(part, nn.Module):
                part.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return self.denoiser.device

    @property
    def dtype(self) -> torch.dtype:
        return self.denoiser.dtype

    # The family
    @abstractmethod
    def all_sites(self) -> list[Site]:
        """Every maskable site."""

    max_tokens: int  # of a prompt, special ones included

    @abstractmethod
    def token_counts(self, prompts: list[str]) -> Tensor:
        """Tokens of each prompt as attention sees it, special ones included, padding not: int [n]. A longer
        one than ``max_tokens`` may count as one more."""

    @abstractmethod
    def encode_checked(self, prompts: list[str]) -> Cond:
        """Prompts -> Cond; `encode` has checked them."""

    @abstractmethod
    def noise(self, n: int, seed: int) -> Tensor:
        """Starting noise; row i is what the pipeline draws from ``torch.Generator().manual_seed(10007 seed + i)``.

        Drawn on the CPU, so a seed means the same picture on every device and in every batch size.
        """

    @abstractmethod
    def sigmas(self, steps: int) -> Tensor:
        """[steps + 1], decreasing to 0, as the pipeline's own scheduler sets them."""

    @abstractmethod
    def conditional(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        """dx/dsigma under ``cond`` alone, without classifier-free guidance: one denoiser forward."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """Latents -> images [n, 3, H, W] in [0, 1]; see `from_vae`."""

    @abstractmethod
    def grid(self, x: Tensor) -> Tensor:
        """Latents as the denoiser's image tokens see them, in place: [n, channels, rows, columns]."""

    def text_attention(self) -> list[str]:
        """Names of the attention modules in which the image reads the prompt, in the order of the network. Here: those of
        a transformer with joint attention."""
        return [name for name, _ in self.denoiser.named_modules() if name.endswith(".attn")]

    def noise_prediction(self, x: Tensor, sigma: Tensor, slope: Tensor) -> Tensor:
        """The noise e that the model sees in ``x``, given its slope dx/dsigma there. Here: for a rectified flow."""
        return x + (1 - sigma) * slope  # x = (1 - sigma) x0 + sigma e, slope = e - x0

    def noised(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Clean latents ``x0`` at noise level ``sigma``, with ``noise`` of unit variance. Here: for a rectified flow.

        In every family the slope that takes it back is (x - x0) / sigma. Losses here are squared errors of that slope,
        whatever the model predicts itself.
        """
        return (1 - sigma) * x0 + sigma * noise

    def level(self, u: float) -> Tensor:
        """The noise level, a scalar, at the share ``u`` in (0, 1] of the model's levels."""
        return torch.tensor(u, device=self.device)

    def latents_of(self, images: Tensor) -> Tensor:
        """Images [n, 3, H, W] in [0, 1] -> clean latents, without sampling of the VAE's posterior."""
        return self.to_vae(images)

    def text_layers(self) -> dict[str, str]:
        """Linears that read the prompt's embedding first: name -> ``"embeds"`` or ``"pooled"``, see `Cond`. Here: those of
        FLUX and SD3.

        (Not the pooled part of SDXL, which goes in together with sizes.)
        """
        return {"context_embedder": "embeds", "time_text_embed.text_embedder.linear_1": "pooled"}

    def input_scale(self, sigma: Tensor) -> Tensor:
        """What the denoiser divides ``x`` by: pure noise of unit variance is ``input_scale(sigma)`` times as large."""
        return torch.ones_like(sigma)

    # What follows from it
    def to_vae(self, images: Tensor) -> Tensor:
        """Images [n, 3, H, W] in [0, 1] -> the VAE's latents, scaled as the denoiser knows them: [n, c, h, w]."""
        vae = self.pipe.vae
        with torch.no_grad(), self.at_hand("vae"):
            z = vae.encode(images.to(self.device, vae.dtype) * 2 - 1).latent_dist.mean
        return ((z - (getattr(vae.config, "shift_factor", None) or 0)) * vae.config.scaling_factor).to(self.dtype)

    def from_vae(self, z: Tensor) -> Tensor:
        """The VAE's latents, scaled as the denoiser knows them -> images [n, 3, H, W] in [0, 1]."""
        vae = self.pipe.vae
        z = z / vae.config.scaling_factor + (getattr(vae.config, "shift_factor", None) or 0)
        with self.at_hand("vae"):
            return (vae.decode(z.to(vae.dtype), return_dict=False)[0] / 2 + 0.5).clamp(0, 1)

    def encode(self, prompts: Sequence[str]) -> Cond:
        """Prompts -> Cond. Warns, once a call, when prompts are longer than the model reads: they are cut."""
        prompts = check_prompts(prompts)
        long = (self.token_counts(prompts) > self.max_tokens).nonzero().flatten().tolist()
        if long:
            warnings.warn(f"{len(long)} of {len(prompts)} prompts have more than {self.max_tokens} tokens and are cut "
                          f"there; the first is prompts[{long[0]}]", stacklevel=2)  # fmt: skip
        level = logging.get_verbosity()
        logging.set_verbosity_error()  # the pipeline would print what it cuts, with all of the padding
        try:
            with self.at_hand("text_encoder"):
                parts = [self.encode_checked(prompts[i : i + 64]) for i in range(0, len(prompts), 64)]
        finally:
            logging.set_verbosity(level)
        return parts[0] if len(parts) == 1 else Cond.cat(parts)

    def prompt_lengths(self, prompts: Sequence[str]) -> Tensor:
        """Tokens of each prompt that attention sees, at most ``max_tokens``; the last one is the end token: int [n]."""
        return self.token_counts(check_prompts(prompts)).clamp(max=self.max_tokens)

    def vocabulary(self) -> list[str]:
        """Whole words, of two letters or more, that are one token of the pipeline's first tokenizer; sorted.

        Raises ValueError for a tokenizer that marks no whole words.
        """
        tokens = self.pipe.tokenizer.get_vocab()
        ends = {t.removesuffix("</w>") for t in tokens if t.endswith("</w>")}  # byte-pair encoding
        starts = {t[1:] for t in tokens if t[:1] in ("▁", "Ġ")}  # sentencepiece, byte-level
        found = sorted(w for w in ends | starts if len(w) > 1 and w.isalpha())
        if not found:
            raise ValueError(f"the tokenizer of family {self.family!r} marks no whole words; give a list of words")
        return found

    def clone(self) -> ModelAdapter:
        """This adapter with a denoiser of its own; the other parts (VAE, text encoders) are shared.

        The copy keeps the fingerprint, whatever is done to its weights: masks of the base fit it. Hooks that only look
        are left behind. Raises RuntimeError inside `masked`, whose mask would be lost: `bake` it first; and ValueError for
        weights that are stored in a smaller type than is computed in.
        """
        if self.storage is not None:
            raise ValueError(
                f"the weights are stored as {self.storage}: load the pipeline without storage=, its masks fit"
            )
        if self.masking:
            raise RuntimeError("a mask is on, and would not be copied: bake the mask first, then go on with that model")
        other = copy.copy(self)
        other.denoiser = copy.deepcopy(self.denoiser)
        for module in other.denoiser.modules():
            for hooks in (module._forward_hooks, module._forward_pre_hooks):
                hooks.clear()
        other.__dict__.pop("_sites", None)
        other.__dict__["fingerprint"] = self.fingerprint
        parts = {name: getattr(self.pipe, name) for name in self.pipe.components}
        name = next(n for n, part in parts.items() if part is self.denoiser)
        options = {k: v for k, v in self.pipe.config.items() if not k.startswith("_") and k not in parts}
        other.pipe = type(self.pipe)(**(parts | options | {name: other.denoiser}))
        other.pipe.set_progress_bar_config(disable=True)
        return other

    @contextmanager
    def at_hand(self, names: str) -> Iterator[None]:
        """Inside, the parts of the pipeline whose name starts with ``names`` are on the denoiser's device; with ``offload``
        they go back to the CPU afterwards."""
        parts = [part for name, part in self.pipe.components.items() if name.startswith(names) and part is not None]
        try:
            for part in parts if self.offload else ():
                part.to(self.device)
            yield
        finally:
            for part in parts if self.offload else ():
                part.to("cpu")

    @contextmanager
    def guided(self, cfg: float) -> Iterator[None]:
        """Inside, sampling uses this scale of classifier-free guidance."""
        before, self.cfg = self.cfg, cfg
        try:
            yield
        finally:
            self.cfg = before

    def predict(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        """dx/dsigma as it is sampled, guidance included: one denoiser forward, or two with guidance."""
        given = self.conditional(x, sigma, cond)
        if self.cfg == 1:
            return given
        empty = self.conditional(x, sigma, self.empty(len(x)))
        return empty + self.cfg * (given - empty)

    def empty(self, n: int) -> Cond:
        """The empty prompt, ``n`` times; encoded once."""
        key = (self.device, self.dtype)
        if key not in self._empty:
            with torch.no_grad():
                self._empty[key] = self.encode([""])
        return self._empty[key][[0] * n]

    def sites(self, kinds: Sequence[str] = ("ffn", "head", "norm")) -> list[Site]:
        """The sites of the given kinds, in the order of the network."""
        unknown = sorted(set(kinds) - set(KINDS))
        if unknown:
            raise ValueError(f"kinds={tuple(kinds)}: {unknown} unknown; use some of {KINDS}")
        found = [s for s in self._sites if s.kind in kinds]
        if not found:
            raise ValueError(
                f"kinds={tuple(kinds)}: {self.family} has none; it has {sorted({s.kind for s in self._sites})}"
            )
        return found

    @cached_property
    def _sites(self) -> list[Site]:
        return self.all_sites()

    @cached_property
    def fingerprint(self) -> str:
        """Family and a hash of the sites and of a few weights that no mask touches.

        It names the architecture and the base model: a baked model keeps the fingerprint of its base.
        """
        sites = self.sites()  # of the paper's kinds; others are views of the same weights
        digest = hashlib.sha256(repr([(s.name, s.units, s.width) for s in sites]).encode())
        touched = {r.linear for s in sites for r in (*s.readers, *s.writers)}
        for name, p in self.denoiser.named_parameters():
            if name.rpartition(".")[0] not in touched:
                digest.update(p.detach().flatten()[:64].to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
        return f"{self.family}-{digest.hexdigest()[:16]}"

    def latents(self, prompts: Sequence[str] | Cond, *, steps: int = 4, seed: int = 0, batch: int = 64) -> Tensor:
        """Final latents [n, ...] for ``prompts``, encoded or not; prompt i starts from row i of ``noise(n, seed)``."""
        prompts = prompts if isinstance(prompts, Cond) else check_prompts(prompts)
        x, sigmas, found = self.noise(len(prompts), seed), self.sigmas(steps), []
        with torch.no_grad():
            cond = prompts if isinstance(prompts, Cond) else self.encode(prompts)
            for i in range(0, len(prompts), batch):
                found.append(rollout(self.predict, x[i : i + batch], sigmas, cond[i : i + batch]))
        return torch.cat(found)

    def images(self, prompts: Sequence[str] | Cond, *, steps: int = 4, seed: int = 0, batch: int = 64) -> Tensor:
        """Images [n, 3, H, W] in [0, 1] for ``prompts``, on the CPU in fp32."""
        latents = self.latents(prompts, steps=steps, seed=seed, batch=batch)
        with torch.no_grad():
            return torch.cat([self.decode(z).float().cpu() for z in latents.split(batch)])

    def previews(self, prompts: Sequence[str] | Cond, *, steps: int = 4, seed: int = 0) -> Tensor:
        """What each step of a sampling heads for, if the rest were straight: images [steps, n, 3, H, W], see `images`."""
        sigmas, found = self.sigmas(steps), []
        with torch.no_grad():
            cond = prompts if isinstance(prompts, Cond) else self.encode(prompts)
            states = rollout(self.predict, self.noise(len(cond), seed), sigmas, cond, trace=True)
            for k, (sigma, after) in enumerate(zip(sigmas[:-1], sigmas[1:])):
                end = states[k] + (states[k + 1] - states[k]) * sigma / (sigma - after)
                found.append(self.decode(end).float().cpu())
        return torch.stack(found)
