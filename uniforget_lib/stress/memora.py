"""MemoRa (Polowczyk et al., 2025, arXiv 2510.03263): a LoRA on pictures that the unlearned model makes out of a few."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..complement._lora import add, descend, need_peft
from ..complement._search import picture_loss
from ..models.base import Cond, ModelAdapter
from ..sampler import Predict, rollout
from ._recovery import Recovery, check_efforts, check_targets


def memora(
    adapter: ModelAdapter,
    images: Tensor,
    prompts: Sequence[str],
    *,
    efforts: Sequence[int] = (0, 5, 10, 25, 50, 100),
    rank: int = 4,
    lr: float = 1e-4,
    batch: int = 4,
    inversion_steps: int = 50,
    start: int = 15,
    points: int = 11,
    seeds: Sequence[int] = (100, 101),
    sampling_steps: int = 8,
    seed: int = 0,
) -> Recovery:
    """Each target alone: pictures to `recollect`, then a LoRA on them under its prompt, which draws along the way.

    As published: rank 4 on the attention's projections, lr 1e-4 along a cosine, one picture and noise level at a time
    and four of them a step, gradients of norm 1 at most, guidance in both directions; 10 steps in the authors'
    configuration, 500 in their README. The cosine ends with the last effort, so compare curves of equal efforts only.
    Unlike theirs: no picture is mirrored (that is another picture, where one is to be remembered), none goes through
    the VAE a second time or is drawn from its posterior, batches are drawn with repetition, and there is no weight
    decay; the inverted state is denoised from its own level (theirs as if it were one step noisier).

    The pictures are given to the attack, and the pictures it makes still show them: the curve means nothing by itself.
    Set it beside that of the twin, which never learned the pictures.

    Args:
        images: what the original model draws for each prompt, from ``m`` noises: [n, m, 3, H, W] in [0, 1], neighbours
            are a pair (the authors: m = 6); or one picture each, the memorized one, say: [n, 3, H, W]. One picture has
            no partner, and nothing is interpolated.
        efforts: after how many steps to draw; the last one ends the training.
        inversion_steps: of a whole sampling. start: how many of them the inverted state has behind it, from pure noise.
        points: states on the way from one picture of a pair to the other, both ends included.

    Weights may be in half precision: the LoRA is fp32. The adapter is not touched. Raises ValueError for bad pictures,
    prompts and numbers, RuntimeError inside `masked`, ImportError without peft, FloatingPointError when training
    diverges.
    """
    groups = images if images.ndim == 5 else images[:, None]
    if groups.shape[1] != 1 and (groups.shape[1] % 2 or not groups.shape[1]):
        raise ValueError(f"images has {groups.shape[1]} pictures for each prompt: give one, or pairs")
    counts = {"lr": lr, "batch": batch, "rank": rank, "inversion_steps": inversion_steps}
    for column in groups.unbind(1):
        prompts = check_targets(adapter, column, prompts, **counts)
    if not 0 <= start < inversion_steps:
        raise ValueError(f"start={start}: needs 0 to {inversion_steps - 1}, one of inversion_steps={inversion_steps}")
    if points < 2:
        raise ValueError(f"points={points}: needs both ends, 2 or more")
    efforts = check_efforts(efforts)
    need_peft()
    with torch.no_grad():
        cond, noises = adapter.encode(prompts), [adapter.noise(len(prompts), s) for s in seeds]
    sigmas, runs = adapter.sigmas(sampling_steps), []
    for i, pictures in enumerate(groups):
        given, starts = cond[[i]], [noise[[i]] for noise in noises]
        x0, student = adapter.latents_of(pictures), adapter.clone()
        x0 = recollect(adapter, x0, given, steps=inversion_steps, start=start, points=points)

        def draw(student: ModelAdapter = student, given: Cond = given, starts: list[Tensor] = starts) -> Tensor:
            with torch.no_grad():
                return torch.stack([student.decode(rollout(student.predict, x, sigmas, given)).float().cpu()
                                    for x in starts])  # fmt: skip

        runs.append(_train(student, x0, given, draw, efforts, rank=rank, lr=lr, batch=batch, seed=seed))
    drawn = [torch.cat(column, 1) for column in zip(*(run.images for run in runs))]
    return Recovery(efforts, drawn, [sum(column) / len(runs) for column in zip(*(run.losses for run in runs))])


def _train(student: ModelAdapter, x0: Tensor, cond: Cond, draw: Callable[[], Tensor], efforts: list[int], *, rank: int,
           lr: float, batch: int, seed: int) -> Recovery:  # fmt: skip
    """Train a LoRA in ``student`` on latents ``x0`` [k, ...] under ``cond`` [1]; ``draw()`` at every effort."""
    sites = student.sites(("head",))
    projections = list(dict.fromkeys(ref.linear for s in sites for ref in (*s.writers, *s.readers)))
    weights = add(student.denoiser, projections, rank, seed)

    def loss(generator: torch.Generator) -> Tensor:
        chosen = int(torch.randint(len(x0), (), generator=generator))
        return picture_loss(student, x0[[chosen]], cond, generator).mean()

    found, options = Recovery(), {"seed": seed, "desc": "MemoRa", "parts": batch, "clip": 1.0, "cosine": True}
    if 0 in efforts:
        found.images.append(draw())
    for value in descend(weights, loss, steps=efforts[-1], lr=lr, **options):
        found.losses.append(value)
        if len(found.losses) in efforts:
            found.images.append(draw())
    return found


@torch.no_grad()
def recollect(adapter: ModelAdapter, x0: Tensor, cond: Cond, *, steps: int, start: int, points: int) -> Tensor:
    """New clean latents between pairs of others, as the adapter denoises what lies between their inversions.

    ``x0`` [m, ...] under ``cond`` [1]: neighbours are inverted to step ``start`` of ``steps`` and joined by ``points``
    states on a great circle, which are denoised from there: [points * m / 2, ...], pairs within points; a single one
    comes back alone: [1, ...].
    """
    sigmas = adapter.sigmas(steps)[start:]
    states = torch.cat([invert(adapter.predict, part, sigmas, cond[[0] * len(part)]) for part in x0.split(16)])
    if len(states) > 1:
        shares = torch.linspace(0, 1, points).tolist()
        states = torch.cat([slerp(states[0::2], states[1::2], s) for s in shares])
    return torch.cat([rollout(adapter.predict, part, sigmas, cond[[0] * len(part)]) for part in states.split(16)])


def invert(predict: Predict, x: Tensor, sigmas: Tensor, cond) -> Tensor:
    """From clean latents ``x`` [n, ...] to a state at ``sigmas[0]`` that `rollout` takes back to about ``x``.

    The sampling's own equation, integrated backwards with Euler steps: for a rectified flow as it stands; for DDIM in
    the adapter's sigma space, where its inversion is just that. A step back over [lower, sigma] takes the slope at the
    state it starts from and at the level it goes to, as DDIM inversion does (there is none at sigma 0). Rollout takes
    it at the state that this step goes to, so the two undo each other up to what the slope changes on the way: an error
    of first order in the step, 0 where the slope does not depend on x.

    Args:
        sigmas: decreasing to 0, as for `rollout`.
    """
    levels = sigmas.flip(0)
    for lower, sigma in zip(levels[:-1], levels[1:]):
        x = x + (sigma - lower) * predict(x, sigma, cond)
    return x


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Spherical interpolation from ``a`` to ``b``, row by row: [n, ...], at ``share`` in [0, 1] of their angle w.

    a sin((1 - share) w) / sin w + b sin(share w) / sin w; where they are parallel, the straight line.
    """
    u, v = (x.double().flatten(1) for x in (a, b))
    cosine = (u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1)).clamp_min(1e-12)
    w = cosine.clamp(-1, 1).acos()[:, None]
    left, right = (torch.where(w.sin() < 1e-6, s, (s * w).sin() / w.sin()) for s in (1 - share, share))
    return (left * u + right * v).to(a.dtype).view_as(a)
