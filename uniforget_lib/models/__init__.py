"""Model families. A new family is one file here and one line in `FAMILIES`."""

from __future__ import annotations

import json
import re
import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

from ..files import check_device, check_sums
from .base import ModelAdapter
from .cond import Cond
from .flux import FluxAdapter
from .full_size import FULL_SIZE, skeleton
from .sd import StableDiffusionAdapter
from .sd3 import StableDiffusion3Adapter
from .sdxl import StableDiffusionXLAdapter
from .shrunk import STATE, rebuild

FAMILIES: dict[str, type[ModelAdapter]] = {  # pipeline class -> adapter
    "FluxPipeline": FluxAdapter,
    "StableDiffusionPipeline": StableDiffusionAdapter,
    "StableDiffusionXLPipeline": StableDiffusionXLAdapter,
    "StableDiffusion3Pipeline": StableDiffusion3Adapter,
}
HUB_ID = r"[\w.-]+/[\w.-]+"
WEIGHTS = Path(__file__).parents[1] / "testbed" / "weights"
SHIPPED = {"testbed": WEIGHTS / "flux", "testbed-control": WEIGHTS / "flux_control", "testbed-unet": WEIGHTS / "unet",
           "testbed-unet-control": WEIGHTS / "unet_control"}  # fmt: skip

__all__ = ["Cond", "FAMILIES", "FULL_SIZE", "FluxAdapter", "ModelAdapter", "SHIPPED", "StableDiffusionAdapter",
           "StableDiffusion3Adapter", "StableDiffusionXLAdapter", "load", "skeleton"]  # fmt: skip


def load(source: str | Path = "testbed", *, device: str | torch.device = "cpu", dtype: torch.dtype | str = torch.float32,
         offload: bool = False, storage: torch.dtype | None = None, **options) -> ModelAdapter:  # fmt: skip
    """Load a pipeline and wrap it.

    Args:
        source: ``"testbed"``, a folder that ``save_pretrained`` or `prune.save` wrote, or a hub id such as
            ``"black-forest-labs/FLUX.1-schnell"``.
        dtype: of the weights; as a name too, ``"float16"`` say.
        offload: only the denoiser stays on the device; text encoders and VAE wait on the CPU and come when needed. Saves
            the 10 GB of FLUX's text encoder. (For calls of ``.pipe`` use diffusers' own offloading.)
        storage: keep the denoiser's weights in a smaller type, ``torch.float8_e4m3fn`` say, and compute in ``dtype``
            (diffusers' layerwise casting): half the memory of bf16, for masks of FLUX and SD3 to be located, with
            ``UniForget(checkpoint="block")``. Not to be baked or shrunk: load without it, and apply the mask there.
        options: passed to the family's adapter (``guidance``, ``true_cfg``, ``resolution``).

    Raises:
        ValueError: an unknown source, a family without an adapter, shipped weights that do not match their sums, or a
            ``storage`` that is not for this family.
        RuntimeError: a CUDA device that is not there.
    """
    from diffusers import DiffusionPipeline

    device = check_device(device)
    if isinstance(dtype, str):
        if dtype not in ("float32", "float16", "bfloat16"):
            raise ValueError(f"dtype={dtype!r}: use 'float32', 'float16' or 'bfloat16'")
        dtype = getattr(torch, dtype)
    if storage is not None and storage not in (torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16):
        raise ValueError(f"storage={storage!r}: use a small floating point type, torch.float8_e4m3fn say")
    path = SHIPPED.get(str(source)) or _shrunk_on_the_hub(source) or Path(source)
    if str(source) in SHIPPED:
        check_sums(path)
    state = json.loads((path / STATE).read_text()) if (path / STATE).is_file() else {}
    parts = {}  # those that from_pretrained must be given: what was saved as None (the T5 of SD3, say) or was shrunk
    if (path / "model_index.json").is_file():
        index = json.loads((path / "model_index.json").read_text())
        name, parts = index["_class_name"], {part: None for part, of in index.items() if of == [None, None]}
        _check_family(name, storage)
    elif path.exists() or not re.fullmatch(HUB_ID, str(source)):
        raise ValueError(f"{str(source)!r} is neither {sorted(SHIPPED)}, nor a folder with a model_index.json, "
                         "nor a hub id (owner/name)")  # fmt: skip
    try:
        if not path.exists():  # its family, before gigabytes are fetched
            _check_family(DiffusionPipeline.load_config(str(source))["_class_name"], storage)
        with quiet() if path.exists() else nullcontext():
            if "linear" in state:
                part = "unet" if "unet" in index else "transformer"
                parts[part] = rebuild(path, part, dtype)
            pipe = DiffusionPipeline.from_pretrained(path if path.exists() else str(source), torch_dtype=dtype, **parts)
    except Exception as error:
        raise ValueError(f"{str(source)!r} could not be loaded: {error}") from None
    name = type(pipe).__name__
    pipe.set_progress_bar_config(disable=True)
    adapter = FAMILIES[name](pipe, **options)
    if state:  # of `prune.save`
        adapter.__dict__["fingerprint"] = state["fingerprint"]
    adapter.offload, adapter.storage = offload, storage
    if storage is not None:  # before the move: a card that needs it has no room for more
        adapter.fingerprint  # noqa: B018 (that of the weights as they were, so that masks fit both)
        adapter.denoiser.enable_layerwise_casting(storage_dtype=storage, compute_dtype=dtype)
    (adapter.denoiser if offload else pipe).to(device)
    return adapter


def _check_family(name: str, storage: torch.dtype | None) -> None:
    if name not in FAMILIES:
        raise ValueError(f"{name} has no adapter; there is one for {sorted(FAMILIES)}")
    if storage is not None and issubclass(FAMILIES[name], StableDiffusionAdapter):
        # its convolutions keep their weights for the backward pass, as they are stored
        raise ValueError(f"storage={storage}: for transformers only; a {name} is small")


def _shrunk_on_the_hub(source: str | Path) -> Path | None:
    """The local copy of a hub repository that `prune.save` wrote; None for any other source. (diffusers would not fetch what
    describes it.)"""
    if Path(source).exists() or not re.fullmatch(HUB_ID, str(source)):
        return None
    try:
        huggingface_hub.hf_hub_download(str(source), STATE)
    except (EntryNotFoundError, RepositoryNotFoundError):  # or no network: diffusers says what is wrong
        return None
    return Path(huggingface_hub.snapshot_download(str(source)))


@contextmanager
def quiet():
    """Neither progress bars nor notes to developers for a pipeline that is already on this machine."""
    from diffusers.utils import logging as diffusers
    from transformers.utils import logging as transformers

    for library in (diffusers, transformers):
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch_dtype: older versions know no other name
            yield
    finally:
        for library in (diffusers, transformers):
            library.enable_progress_bar()
