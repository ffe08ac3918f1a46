"""Stable Diffusion XL: the U-Net of Stable Diffusion with two text encoders, a pooled embedding and the picture's size."""

from __future__ import annotations

from diffusers import StableDiffusionXLPipeline

from .base import Cond
from .sd import StableDiffusionAdapter


class StableDiffusionXLAdapter(StableDiffusionAdapter):
    """Adapter of `StableDiffusionXLPipeline`; arguments as for `StableDiffusionAdapter`.

    As in the pipeline, guidance is away from zeros, not from the encoded empty prompt, where the model says so
    (``force_zeros_for_empty_prompt``): `empty` then differs from ``encode([""])``.
    """

    family = "sdxl"

    def __init__(
        self, pipe: StableDiffusionXLPipeline, *, guidance: float = 5.0, resolution: int | None = None
    ) -> None:
        super().__init__(pipe, guidance=guidance, resolution=resolution)

    def encode_checked(self, prompts: list[str]) -> Cond:
        embeds, _, pooled, _ = self.pipe.encode_prompt(
            prompt=prompts, device=self.device, do_classifier_free_guidance=False
        )
        return Cond(embeds.to(self.dtype), pooled.to(self.dtype))

    def empty(self, n: int) -> Cond:
        cond = super().empty(n)
        if not self.pipe.config.force_zeros_for_empty_prompt:
            return cond
        return Cond(cond.embeds.new_zeros(cond.embeds.shape), cond.pooled.new_zeros(cond.pooled.shape))

    def extra(self, cond: Cond) -> dict:
        side = (self.resolution, self.resolution)  # original and target size; nothing is cropped
        ids = cond.pooled.new_tensor([*side, 0, 0, *side]).expand(len(cond), -1)
        return {"added_cond_kwargs": {"text_embeds": cond.pooled, "time_ids": ids}}
