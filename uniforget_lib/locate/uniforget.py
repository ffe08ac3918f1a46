"""UniForget (arXiv 2512.09687): learn which units neutral prompts do not need, through the whole sampling.

    min_M  E_{c in C_n} [ 1/N_l || F_M(z0, N, c) - F(z0, N, c) ||^2  +  beta || sigma_hat(M) ||_1 / |M| ]

Weights are frozen; only the logits M learn. No memorized concept is named anywhere. What only memorized prompts use
costs nothing on neutral ones, so the regulariser takes it away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..files import load_tensors, save_tensors
from ..hooks import masked, masked_steps, recomputed
from ..masks import Score, hard_concrete, relaxed_sigmoid
from ..models.base import ModelAdapter, check_prompts
from ..progress import progress as progress_bar
from ..sampler import rollout


@dataclass(frozen=True)
class UniForget:
    """Hyper-parameters; defaults are the paper's where the paper gives them (FLUX.1-schnell)."""

    beta: float = 2.0  # strength; belongs to the loss scale of its model: see `calibrate`
    steps: int = 4  # N, Euler steps of the sampling that is differentiated
    mask_steps: int = 2000  # optimiser steps
    batch: int = 20
    lr: float = 0.5
    weight_decay: float = 1e-2  # decoupled (AdamW)
    init: float = 3.0  # of the logits (EcoDiff)
    kinds: tuple[str, ...] = ("ffn", "norm")
    relaxed: bool = True  # False: sigma_hat is the plain sigmoid (supplementary Fig. 3)
    checkpoint: bool | str = False  # recompute steps in the backward pass; "block": and in them, blocks of the model
    micro_batch: int | None = None  # prompts run at once; gradients add up to those of the batch
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("beta", "lr", "weight_decay"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
                raise ValueError(f"{name}={value!r}: must be a finite number, 0 or more")
        for name in ("steps", "mask_steps", "batch", "micro_batch"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        if self.checkpoint not in (False, True, "block"):
            raise ValueError(f"checkpoint={self.checkpoint!r}: use False, True (steps) or 'block'")


def uniforget(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    config: UniForget = UniForget(),  # noqa: B008 (frozen)
    *,
    state: str | Path | None = None,
    every: int = 25,
    progress: Callable[[dict], None] | None = None,
    stop_after: int | None = None,
    accelerator=None,
) -> Score:
    """Train the mask on neutral ``prompts`` and return minus the logits as a `Score`: cut it at threshold 0, as EcoDiff does.

    Every prompt keeps one noise z0, that of ``config.seed``; evaluate with other seeds.

    Args:
        state: file to resume from and to checkpoint to, every ``every`` steps. Step k draws from a generator seeded
            by (seed, k), so an interrupted run ends in the same mask as one that was not.
        progress: called with {"step", "loss", "reconstruction", "regulariser", "off"} after every step.
        stop_after: stop at this step of ``mask_steps`` (for tests and for looking in).
        accelerator: an `accelerate.Accelerator`. Its processes share every batch, each with the model on its own device
            (``load(..., device=accelerator.device)``), and end in the same mask, that of one process but for rounding.
            The first one writes ``state``; a run may resume with another number of processes.

    Raises:
        ValueError: no prompts, negative beta, or a state of another model or configuration.
        FloatingPointError: the model's output is not finite.
    """
    options = {"state": state, "every": every, "progress": progress, "stop_after": stop_after}
    return _train(adapter, prompts, config, 1, accelerator=accelerator, **options)[0]


def uniforget_steps(adapter: ModelAdapter, prompts: Sequence[str], config: UniForget, **options) -> list[Score]:
    """`uniforget` with a mask of its own for every step of the sampling: ``config.steps`` scores, for `masked_steps`.

    Beyond the paper. The regulariser is the mean over the masks; `shrink` and `bake` cannot use them. Options and
    errors as for `uniforget`; ``cost`` and ``history`` are those of all masks together.
    """
    return _train(adapter, prompts, config, config.steps, **options)


def _train(adapter: ModelAdapter, prompts: Sequence[str], config: UniForget, masks: int, *, state=None, every: int = 25,
           progress=None, stop_after: int | None = None, accelerator=None) -> list[Score]:  # fmt: skip
    """Train ``masks`` masks: one for all steps, or one for each."""
    prompts, team = check_prompts(prompts), _Team(accelerator, adapter)
    sites = adapter.sites(config.kinds)
    sizes = [s.units for s in sites]
    logits = torch.full((masks * sum(sizes),), float(config.init), device=adapter.device, requires_grad=True)
    # Decoupled weight decay (as EcoDiff): coupled, 1e-2 times a logit outweighs both gradients by orders of magnitude.
    optimizer = torch.optim.AdamW([logits], lr=config.lr, weight_decay=config.weight_decay)
    stored = () if adapter.storage is None else (adapter.storage,)
    key = repr(
        (*stored, masks, adapter.fingerprint, adapter.cfg, adapter.resolution, adapter.dtype, asdict(config), prompts)
    )
    team.wait()  # for the one that may still write what is read now
    first, history = _resume(state, key, logits, optimizer, config) if state and Path(state).exists() else (0, [])
    team.agree(first, f"the step that {state} resumes from; put it where all of them can read it")

    noise, sigmas = adapter.noise(len(prompts), config.seed), adapter.sigmas(config.steps)
    with torch.no_grad():  # the teacher's images are the same in every step
        cond, teacher = adapter.encode(prompts), torch.zeros_like(noise)
        at_once = config.micro_batch or min(64, -(-len(prompts) // team.size))
        for part in team.share(torch.arange(len(prompts)).split(at_once)):
            teacher[part] = rollout(adapter.predict, noise[part], sigmas, cond[part])
        teacher = team.sum(teacher)

    last = min(config.mask_steps, stop_after or config.mask_steps)
    options = {"initial": first, "total": config.mask_steps, "desc": f"UniForget, beta {config.beta:.3g}",
               "disable": not team.first}  # fmt: skip
    bar = progress_bar(range(first, last), **options)
    for step in bar:
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        pick = torch.randperm(len(prompts), generator=generator)[: config.batch]
        u = torch.rand(len(logits), generator=generator).to(logits.device)
        optimizer.param_groups[0]["lr"] = config.lr * 0.5 * (1 + math.cos(math.pi * step / config.mask_steps))
        logits.grad = torch.zeros_like(logits)  # also where a process has no part
        error = 0.0
        for part in team.share(pick.split(config.micro_batch or -(-len(pick) // team.size))):
            rows = hard_concrete(logits, u).view(masks, -1)
            gates = [dict(zip((s.name for s in sites), row.split(sizes))) for row in rows]
            error += backpropagate(adapter, gates, noise[part], sigmas, cond[part], teacher[part],
                                   share=len(part) / len(pick), checkpoint=config.checkpoint)  # fmt: skip
        logits.grad, error = team.sum(logits.grad), team.total(error)
        if not math.isfinite(error):
            raise FloatingPointError(
                f"step {step + 1}: the reconstruction error is {error}; load the model in fp32 or bf16"
            )
        sigma_hat = relaxed_sigmoid(logits) if config.relaxed else logits.sigmoid()
        regulariser = sigma_hat.mean()
        (config.beta * regulariser).backward()
        optimizer.step()
        row = {"step": step + 1, "loss": error + config.beta * float(regulariser.detach()), "reconstruction": error,
               "regulariser": float(regulariser.detach()), "off": float((logits <= 0).float().mean())}  # fmt: skip
        history.append(row)
        bar.set_postfix(error=f"{error:.4f}", off=f"{row['off']:.2f}", refresh=False)
        if progress:
            progress(row)
        if state and team.first and ((step + 1) % every == 0 or step + 1 == last):
            _save(state, key, logits, optimizer, history)
    found = [dict(zip((s.name for s in sites), row.split(sizes))) for row in (-logits.detach()).cpu().view(masks, -1)]
    passes = 1 if adapter.cfg == 1 else 2  # with guidance, the empty prompt too
    # A backward through frozen weights is about one forward; checkpointing runs every step but the last again.
    work = 2 * config.steps + (config.steps - 1 if config.checkpoint else 0)
    work += config.steps if config.checkpoint == "block" else 0
    forwards = passes * (config.steps * len(prompts) + work * min(config.batch, len(prompts)) * last)
    return [Score(values, "uniforget", adapter.fingerprint, forwards, history) for values in found]


def backpropagate(adapter: ModelAdapter, gates: Sequence[dict[str, Tensor]], noise: Tensor, sigmas: Tensor, cond, teacher: Tensor,
                  *, share: float = 1.0, checkpoint: bool | str = False) -> float:  # fmt: skip
    """The reconstruction error 1/N_l || F_M - F ||^2 of a batch times its ``share``; its gradient is added to the leaves
    behind ``gates``, which are those of all steps, or of each."""
    blocks = recomputed(adapter) if checkpoint == "block" else nullcontext()
    with blocks, masked(adapter, gates[0]) if len(gates) == 1 else masked_steps(adapter, gates, sigmas):
        image = rollout(adapter.predict, noise, sigmas, cond, checkpoint=bool(checkpoint))
        reconstruction = (image - teacher).float().pow(2).mean() * share
        reconstruction.backward()  # inside: a checkpointed step runs again, and needs its gates
    return float(reconstruction.detach())


class _Team:
    """The processes of an `accelerate.Accelerator`, or one alone."""

    def __init__(self, accelerator, adapter: ModelAdapter) -> None:
        self.accelerator = accelerator
        self.size = accelerator.num_processes if accelerator else 1
        self.rank = accelerator.process_index if accelerator else 0
        if (
            self.size > 1
            and torch.empty(0, device=adapter.device).device != torch.empty(0, device=accelerator.device).device
        ):
            raise ValueError(f"the model is on {adapter.device}, its process on {accelerator.device}: "
                             "load(..., device=accelerator.device)")  # fmt: skip

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, parts: Sequence) -> Sequence:
        """Those of ``parts`` that are this process's."""
        return parts[self.rank :: self.size]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, which is the same in each."""
        return tensor if self.size == 1 else self.accelerator.reduce(tensor, "sum")

    def total(self, number: float) -> float:
        """`sum` of a number."""
        if self.size == 1:
            return number
        return float(self.sum(torch.tensor(number, dtype=torch.float64, device=self.accelerator.device)))

    def wait(self) -> None:
        if self.size > 1:
            self.accelerator.wait_for_everyone()

    def agree(self, number: int, what: str) -> None:
        """Raises ValueError in every process unless all have the same number."""
        if self.size == 1:
            return
        numbers = self.accelerator.gather(torch.tensor([number], device=self.accelerator.device))
        if len(set(numbers.tolist())) > 1:
            raise ValueError(f"the processes do not agree on {what}")


def _save(path: str | Path, key: str, logits: Tensor, optimizer: torch.optim.AdamW, history: list[dict]) -> None:
    moments = optimizer.state[logits]
    columns = ("step", "loss", "reconstruction", "regulariser", "off")
    table = torch.tensor([[row[c] for c in columns] for row in history], dtype=torch.float64)
    tensors = {"logits": logits, "exp_avg": moments["exp_avg"], "exp_avg_sq": moments["exp_avg_sq"], "history": table}
    save_tensors(path, tensors, {"key": key, "columns": " ".join(columns)})


def _resume(path, key: str, logits: Tensor, optimizer: torch.optim.AdamW, config: UniForget) -> tuple[int, list[dict]]:
    tensors, metadata = load_tensors(path)
    if metadata.get("key") != key:
        raise ValueError(f"{path} is the state of another model, configuration or prompt list; use another file")
    rows = [dict(zip(metadata["columns"].split(), row)) for row in tensors["history"].tolist()]
    for row in rows:
        row["step"] = int(row["step"])
    with torch.no_grad():
        logits.copy_(tensors["logits"])
    optimizer.state[logits] = {"step": torch.tensor(float(len(rows))), "exp_avg": tensors["exp_avg"].to(logits.device),
                               "exp_avg_sq": tensors["exp_avg_sq"].to(logits.device)}  # fmt: skip
    return len(rows), rows


def relative_change(adapter: ModelAdapter, mask, prompts: Sequence[str], *, steps: int = 4, seed: int = 0) -> Tensor:
    """Squared change of each prompt's latents under ``mask`` over the variance of the unmasked ones: [n].

    0 = unchanged; about 2 = as different as two unrelated images.
    """
    plain = adapter.latents(prompts, steps=steps, seed=seed)
    with masked(adapter, mask):
        changed = adapter.latents(prompts, steps=steps, seed=seed)
    return (changed - plain).float().flatten(1).pow(2).mean(1).cpu() / plain.float().var().cpu()


def calibrate(
    adapter: ModelAdapter,
    prompts: Sequence[str],
    check: Sequence[str],
    targets: dict[str, float],
    betas: Sequence[float],
    config: UniForget,
) -> tuple[dict[str, float], list[dict]]:
    """Find the beta of each named level: the strength at which neutral ``check`` prompts change by its target.

    The paper's 1, 2 and 5 belong to FLUX's loss scale. Here a level is named by what it may cost on neutral prompts
    (`relative_change`), which needs no knowledge of anything memorized; beta is read off a sweep over ``betas`` by
    linear interpolation of log change against log beta. Returns (level -> beta, the rows of the sweep).
    """
    rows = []
    for beta in betas:
        score = uniforget(adapter, prompts, UniForget(**(asdict(config) | {"beta": beta})))
        mask = score.mask(threshold=0)
        change = float(relative_change(adapter, mask, check, steps=config.steps, seed=config.seed + 1).mean())
        rows.append({"beta": beta, "off": mask.sparsity(), "change": change})
    found = {}
    for level, target in targets.items():
        if not min(r["change"] for r in rows) <= target <= max(r["change"] for r in rows):
            raise ValueError(f"target {level}={target} lies outside the sweep {rows}; widen betas")
        below = max((r for r in rows if 0 < r["change"] <= target), key=lambda r: r["change"], default=None)
        if below is None:
            raise ValueError(f"target {level}={target}: the smallest betas of {rows} change nothing; use larger ones")
        above = min((r for r in rows if r["change"] >= target), key=lambda r: r["change"])
        x0, x1, y0, y1 = (math.log(v) for v in (below["change"], above["change"], below["beta"], above["beta"]))
        found[level] = math.exp(y0 if x1 == x0 else y0 + (y1 - y0) * (math.log(target) - x0) / (x1 - x0))
    return found, rows
