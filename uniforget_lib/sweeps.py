"""UniForget on a model of your own: masks over strengths and seeds, each beside its controls, resumable; and an attack on one.

No truth is known of such a model, so what can be measured is how much pictures *change*: those of suspected prompts, those
of neutral prompts that no mask saw, and what random and magnitude pruning of as many units a site do to both. Where you have
the training pictures of the suspects, copies are counted too.
"""

from __future__ import annotations

import csv
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .evaluate import CLOSE, bootstrap, bootstrap_ratio, change, copied, detail, stack
from .files import load_tensors
from .hooks import masked
from .locate import UniForget, magnitude, random, uniforget
from .masks import Mask, Score
from .models import ModelAdapter
from .models._pictures import check_pictures, read_picture
from .models.base import check_prompts
from .report import Report, provenance, resume
from .stress import dori

__all__ = ["attack", "read_neutral", "read_pictures", "read_suspects", "scores", "sweep"]
METHODS = ("uniforget", "random", "magnitude")
JUDGED, DRAWN = 7, (100,)  # noises of the pictures that judge, and that an attack draws; masks train on 1000 and up


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
        neutral: neutral prompts, each once. Every other one trains the masks, the rest measure what they cost.
        config: everything about the masks but ``beta`` and ``seed``.
        folder: rows go to ``sweep.json`` there as they come, scores to files of their own (`scores`). A sweep that was
            interrupted goes on, in the middle of a mask too; more strengths or seeds may be added later.
        targets: training pictures of the suspects, if you have them: [n, 3, H, W] in [0, 1].
        steps, guidance, batch: of the sampling that judges (guidance None: the adapter's, with which masks are trained).

    Raises ValueError, before anything is computed: fewer than four neutral prompts, one twice or among the suspects, a
    strength that is no number, or a folder with a sweep of another model, other prompts, pictures or settings. Warns where
    the training is too short for any gate to close, and where none did.
    """
    suspects, neutral = check_prompts(suspects), check_prompts(neutral)
    if len(neutral) < 4 or set(suspects) & set(neutral) or len(set(neutral)) < len(neutral):
        raise ValueError("neutral: give at least four prompts, each once, none of which is a suspect")
    if not strengths or not seeds:
        raise ValueError("strengths and seeds: give at least one of each")
    configs = {(float(b), int(s)): replace(config, beta=float(b), seed=1000 + int(s)) for b in strengths for s in seeds}
    adapter.sites(config.kinds)  # raises for kinds that the model has not
    if (
        config.lr * config.mask_steps / 2 < config.init
    ):  # Adam moves a logit by its rate, which falls to 0 along a cosine
        warnings.warn(f"lr={config.lr} over mask_steps={config.mask_steps} moves a logit by at most about "
                      f"{config.lr * config.mask_steps / 2:.2g}, and it starts at {config.init}: no gate can close, whatever "
                      "the strength; raise either", stacklevel=2)  # fmt: skip
    if targets is not None:
        check_pictures(adapter, targets, suspects)
    training, held_out = neutral[::2], neutral[1::2]
    scale = adapter.cfg if guidance is None else float(guidance)
    own = _settings(adapter, config, training)
    stamp = hashlib.sha256(repr(own).encode()).hexdigest()[:16]
    settings = own | {
        "judged_steps": steps, "guidance": scale, "suspects": suspects, "held_out": held_out, "targets": _digest(targets)}  # fmt: skip
    plain: dict[str, Tensor] = {}

    def pictures(mask: Mask | None) -> dict[str, Tensor]:
        with nullcontext() if mask is None else masked(adapter, mask), adapter.guided(scale):
            groups = (("suspect", suspects), ("neutral", held_out))
            return {name: adapter.images(p, steps=steps, seed=JUDGED, batch=batch) for name, p in groups}

    def row(mask: Mask | None) -> dict:
        if not plain:
            plain.update(pictures(None))
        found = plain if mask is None else pictures(mask)
        return {"removed": 0.0 if mask is None else round(mask.sparsity(), 4), **_measure(found, plain, targets)}

    def cells() -> Iterator[tuple[dict, object]]:
        for beta, seed in configs:
            _kept(scores(folder, beta, seed), stamp)
        yield {"method": "unpruned", "strength": 0.0, "seed": 0}, lambda: row(None)
        for (beta, seed), chosen in configs.items():
            for method in METHODS:
                key = {"method": method, "strength": beta, "seed": seed}
                path = scores(folder, beta, seed)
                yield key, lambda m=method, c=chosen, p=path: row(_mask(adapter, training, c, m, p, stamp))

    meta = provenance(seed=int(seeds[0]), device=adapter.device) | {"settings": settings}
    report = resume(Path(folder) / "sweep.json", cells(), meta)
    if not any(row["removed"] for row in report.rows):
        warnings.warn("nothing was removed at any strength, so these rows say nothing of the method", stacklevel=2)
    return report


def scores(folder: str | Path, beta: float, seed: int = 0) -> Path:
    """Where `sweep` keeps the score of a strength and a seed: read it with ``Score.load``."""
    return Path(folder) / f"{float(beta)!r}-{int(seed)}.safetensors"


def attack(
    adapter: ModelAdapter,
    mask: Mask,
    prompts: Sequence[str],
    targets: Tensor | None = None,
    *,
    efforts: Sequence[int] = (0, 50),
    folder: str | Path,
    steps: int = 8,
    guidance: float | None = None,
    batch: int = 1,
) -> Report:
    """Search for pictures with the model as it is, and under ``mask`` (`stress.dori`): a row for each, effort and goal.

    The goals are ``targets`` [n, 3, H, W] in [0, 1], or else what the unpruned model draws; and, as a control, their mirror
    images: of the same making and, to a model that was not trained on mirrored pictures, new. Only the excess over the
    control counts.

    Args:
        efforts: steps of the search after which to draw. folder: rows go to ``attacked.json`` there; it resumes.
        batch: pictures attacked at once; each needs the graph of a forward (`evaluate.graph`).

    Raises ValueError for pictures that do not fit, and for a folder with an attack of other settings.
    """
    prompts = check_prompts(prompts)
    scale = adapter.cfg if guidance is None else float(guidance)
    if targets is None:
        with adapter.guided(scale):
            targets = adapter.images(prompts, steps=steps, seed=JUDGED, batch=batch)
    check_pictures(adapter, targets, prompts)
    goals = {"suspects": targets, "mirrored": targets.flip(-1)}
    settings = {"model": adapter.fingerprint, "mask": _digest(torch.cat(list(mask.values.values()))), "prompts": prompts,
                "targets": _digest(targets), "efforts": list(efforts), "steps": steps, "guidance": scale}  # fmt: skip

    def row(pruned: bool, goal: Tensor) -> dict:
        near = {effort: [] for effort in efforts}
        options = {"efforts": efforts, "seeds": DRAWN, "sampling_steps": steps}
        with masked(adapter, mask) if pruned else nullcontext(), adapter.guided(scale):
            for start in range(0, len(prompts), batch):
                part = slice(start, start + batch)
                found = dori(adapter, goal[part], prompts[part], **options)
                for effort, images in zip(found.efforts, found.images):
                    near[effort].extend(copied(images[0], goal[part], CLOSE))
        return {f"copied after {effort}": bootstrap(np.array(hits)[None]) for effort, hits in near.items()}

    cells = (({"model": "pruned" if pruned else "unpruned", "goal": name}, lambda p=pruned, g=goal: row(p, g))
             for pruned in (False, True) for name, goal in goals.items())  # fmt: skip
    meta = provenance(seed=DRAWN[0], device=adapter.device) | {"settings": settings}
    return resume(Path(folder) / "attacked.json", cells, meta)


def read_suspects(path: str | Path) -> tuple[list[str], list[Path] | None]:
    """Captions, and the files of their training pictures if there are any, from a CSV with the columns ``caption`` and, for
    every row or for none, ``file`` (beside the CSV).

    Raises ValueError or FileNotFoundError naming the line.
    """
    captions, files = [], []
    _check_file(path)
    with Path(path).open(newline="", encoding="utf-8-sig") as f:
        reader = csv.DictReader(f)
        columns = set(reader.fieldnames or ())
        if "caption" not in columns or columns - {"caption", "file", "copies", "kind"}:  # the last two: of `items.csv`
            raise ValueError(f"{path}: the first line must name the columns: caption and, if you have pictures, file")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise ValueError(
                    f"{where}: not as many fields as columns; a caption with a comma needs quotes around it"
                )
            caption, file = ((row.get(c) or "").strip() for c in ("caption", "file"))
            if not caption:
                raise ValueError(f"{where}: no caption")
            captions.append(caption)
            if file:
                files.append(Path(path).parent / file)
                if not files[-1].is_file():
                    raise FileNotFoundError(f"{where}: {files[-1]} is not there (a caption with a comma needs quotes)")
    if not captions or (files and len(files) != len(captions)):
        raise ValueError(f"{path}: {len(captions)} rows, {len(files)} with a file; give one in every row, or in none")
    return captions, files or None


def read_pictures(files: Sequence[Path], resolution: int) -> Tensor:
    """Central squares of pictures: [n, 3, resolution, resolution] in [0, 1]. Raises ValueError naming a file that is none."""
    return stack([read_picture(path, resolution, str(path)) for path in files])


def read_neutral(path: str | Path) -> list[str]:
    """The prompts of a text file, one a line, each once; empty lines do not count."""
    _check_file(path)
    lines = (line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return list(dict.fromkeys(line for line in lines if line))


def _check_file(path: str | Path) -> None:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not there (looked in {Path(path).resolve().parent})")


def _settings(adapter: ModelAdapter, config: UniForget, prompts: list[str]) -> dict:
    """What a score of the sweep depends on, strength and seed apart. (How much is run at once changes nothing.)"""
    free = {"beta", "seed", "checkpoint", "micro_batch"}
    fixed = {name: value for name, value in asdict(config).items() if name not in free} | {"kinds": list(config.kinds)}
    return {"model": adapter.fingerprint, "resolution": adapter.resolution, "dtype": str(adapter.dtype), "cfg": adapter.cfg,
            **fixed, "training": prompts}  # fmt: skip


def _digest(values: Tensor | None) -> str:
    return "" if values is None else hashlib.sha256(values.float().cpu().numpy().tobytes()).hexdigest()[:16]


def _kept(path: Path, stamp: str) -> bool:
    """Is there a score? Raises ValueError for one that was trained with other settings."""
    if path.exists() and load_tensors(path)[1].get("settings") != stamp:
        raise ValueError(f"{path} was trained with other settings; choose another folder, or delete it")
    return path.exists()


def _mask(adapter: ModelAdapter, prompts: list[str], config: UniForget, method: str, path: Path, stamp: str) -> Mask:
    """UniForget's mask, from its file if it is there, or a control that removes as many units at every site."""
    if _kept(path, stamp):
        score = Score.load(path, adapter.fingerprint)
    else:
        state = path.with_suffix(".state")
        score = uniforget(adapter, prompts, config, state=state)
        score.save(path, settings=stamp)
        state.unlink(missing_ok=True)
    mask = score.mask(threshold=0)
    if method == "uniforget":
        return mask
    if method == "magnitude":
        return magnitude(adapter, kinds=config.kinds).match(mask)
    return random(adapter, kinds=config.kinds, seed=config.seed).match(mask)


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
