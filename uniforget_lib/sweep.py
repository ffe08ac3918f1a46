"""UniForget on a model of your own: masks over strengths and seeds, each beside its controls, resumable.

No truth is known of such a model, so what can be measured is how much pictures *change*: those of suspected prompts, those
of neutral prompts that no mask saw, and what random and magnitude pruning of as many units a site do to both. Where you have
the training pictures of the suspects, copies are counted too.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .evaluate import CLOSE, bootstrap, bootstrap_ratio, change, copied, detail
from .hooks import masked
from .locate import UniForget, magnitude, random, uniforget
from .masks import Mask, Score
from .models import ModelAdapter
from .models._pictures import check_pictures
from .models.base import check_prompts
from .report import Report, provenance, resume

__all__ = ["METHODS", "read_suspects", "scores", "sweep"]
METHODS = ("uniforget", "random", "magnitude")


def sweep(
    adapter: ModelAdapter,
    suspects: Sequence[str],
    neutral: Sequence[str],
    config: UniForget,
    *,
    strengths: Sequence[float],
    seeds: Sequence[int] = (0,),
    folder: str | Path,
    targets: Tensor | None = None,
    steps: int = 8,
    guidance: float | None = None,
    batch: int = 8,
) -> Report:
    """A row for the unpruned model, and one for every method, strength (beta) and seed of the mask's training.

    Args:
        suspects: prompts that may be memorized; no mask sees them.
        neutral: neutral prompts. The first half trains the masks, the second half measures what they cost.
        config: everything about the masks but ``beta`` and ``seed``.
        folder: rows go to ``sweep.json`` there as they come, masks to ``BETA-SEED.safetensors``. A sweep that was interrupted
            goes on, in the middle of a mask too; more strengths or seeds may be added later.
        targets: training pictures of the suspects, if you have them: [n, 3, H, W] in [0, 1].
        steps, guidance, batch: of the sampling that judges (guidance None: the adapter's, with which masks are trained).

    Raises ValueError, before anything is computed: fewer than four neutral prompts, suspects among them, or a folder with a
    sweep of another model, other prompts or another configuration.
    """
    suspects, neutral = check_prompts(suspects), check_prompts(neutral)
    if len(neutral) < 4 or set(suspects) & set(neutral):
        raise ValueError("neutral: give at least four prompts, none of which is a suspect")
    if not strengths or not seeds:
        raise ValueError("strengths and seeds: give at least one of each")
    if targets is not None:
        check_pictures(adapter, targets, suspects)
    training, held_out = neutral[: len(neutral) // 2], neutral[len(neutral) // 2 :]
    scale = adapter.cfg if guidance is None else guidance
    settings = {"model": adapter.fingerprint, "config": repr(asdict(replace(config, beta=0, seed=0))), "steps": steps,
                "guidance": [adapter.cfg, scale], "suspects": suspects, "neutral": neutral}  # fmt: skip
    plain: dict[str, Tensor] = {}

    def pictures(prompts: list[str]) -> Tensor:
        with adapter.guided(scale):
            return adapter.images(prompts, steps=steps, seed=_NOISE, batch=batch)

    def row(mask: Mask | None) -> dict:
        if not plain:
            plain.update(suspect=pictures(suspects), neutral=pictures(held_out))
        if mask is None:
            found = plain
        else:
            with masked(adapter, mask):
                found = {"suspect": pictures(suspects), "neutral": pictures(held_out)}
        return _measure(found, plain, targets) | {"removed": 0.0 if mask is None else round(mask.sparsity(), 4)}

    def cells() -> Iterator[tuple[dict, object]]:
        yield {"method": "unpruned", "strength": 0.0, "seed": 0}, lambda: row(None)
        for beta in strengths:
            for seed in seeds:
                for method in METHODS:
                    key = {"method": method, "strength": float(beta), "seed": int(seed)}
                    yield key, lambda m=method, b=beta, s=seed: row(_mask(adapter, training, config, m, b, s, folder))

    meta = provenance(seed=seeds[0], device=adapter.device) | {"settings": settings}
    return resume(Path(folder) / "sweep.json", cells(), meta)


def scores(folder: str | Path, beta: float, seed: int = 0) -> Path:
    """Where `sweep` keeps the score of a strength and a seed: read it with ``Score.load``."""
    return Path(folder) / f"{beta:g}-{seed}.safetensors"


def read_suspects(path: str | Path, resolution: int) -> tuple[list[str], Tensor | None]:
    """Captions, and the training pictures [n, 3, resolution, resolution] in [0, 1] if there are any, from a CSV with the
    columns ``caption`` and, for every row or for none, ``file`` (beside the CSV).

    Pictures are cut to their central square. Raises ValueError or FileNotFoundError naming the line.
    """
    captions, pictures = [], []
    with Path(path).open(newline="", encoding="utf-8-sig") as f:
        for line, row in enumerate(csv.DictReader(f), start=2):
            caption, file = ((row.get(c) or "").strip() for c in ("caption", "file"))
            if not caption:
                raise ValueError(f"{path}, line {line}: no caption (the first line must name the column)")
            captions.append(caption)
            if file:
                pictures.append(_picture(Path(path).parent / file, resolution, f"{path}, line {line}"))
    if pictures and len(pictures) != len(captions):
        raise ValueError(
            f"{path}: {len(pictures)} of {len(captions)} rows name a file; name one in every row, or in none"
        )
    return captions, torch.stack(pictures) if pictures else None


def _picture(path: Path, size: int, where: str) -> Tensor:
    if not path.is_file():
        raise FileNotFoundError(f"{where}: {path} is not there")
    try:
        picture = Image.open(path).convert("RGB")
    except UnidentifiedImageError:
        raise ValueError(f"{where}: {path} is no picture") from None
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    cut = picture.crop((left, top, left + side, top + side)).resize((size, size), Image.LANCZOS)
    return torch.from_numpy(np.array(cut)).permute(2, 0, 1).float() / 255


_NOISE = 7  # of the pictures that judge; masks are trained on noises 1000 and up


def _mask(adapter, prompts: list[str], config: UniForget, method: str, beta: float, seed: int, folder) -> Mask:
    """UniForget's mask, from its file if it is there, or a control that removes as many units at every site."""
    path = scores(folder, beta, seed)
    if path.exists():
        score = Score.load(path, adapter.fingerprint)
    else:
        state = path.with_suffix(".state")
        score = uniforget(adapter, prompts, replace(config, beta=float(beta), seed=seed + 1000), state=state)
        score.save(path)
        state.unlink(missing_ok=True)
    mask = score.mask(threshold=0)
    if method == "uniforget":
        return mask
    made = (
        magnitude(adapter, kinds=config.kinds)
        if method == "magnitude"
        else random(adapter, kinds=config.kinds, seed=seed)
    )
    return made.match(mask)


@torch.no_grad()
def _measure(found: dict[str, Tensor], plain: dict[str, Tensor], targets: Tensor | None) -> dict:
    """What became of both groups, with intervals over prompts."""
    moved = {name: change(found[name], plain[name])[None] for name in found}
    row = {f"{name}_change": bootstrap(values, share=False) for name, values in moved.items()}
    if moved["neutral"].any():
        row["selectivity"] = bootstrap_ratio(moved["suspect"], moved["neutral"])
    energy = detail(found["neutral"])[None] / detail(plain["neutral"]).mean()
    row["neutral_detail"] = bootstrap(energy, share=False)
    if targets is not None:
        row["copied"] = bootstrap(np.asarray(copied(found["suspect"], targets, CLOSE))[None])
    return row
