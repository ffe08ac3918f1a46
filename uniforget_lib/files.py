"""Files that are whole or not there: atomic safetensors, hashes, and the checks that come before long work."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import load_file, safe_open, save


def check_device(device: str | torch.device) -> torch.device:
    """``device`` as a torch.device. Raises RuntimeError when it is a CUDA device that is not there."""
    device = torch.device(device)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise RuntimeError(f"device={str(device)!r}: this machine has {count} CUDA devices; use device='cpu'")
    return device


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` to a neighbour of ``path`` and move it there: a failure leaves the old file as it was.

    Raises OSError naming the path and what to do, for instance on a full disk.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise OSError(
            error.errno, f"cannot write {path} ({error.strerror}); free some space or choose another path"
        ) from error


def save_tensors(path: str | Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Save as safetensors, atomically (see `write_bytes`)."""
    clean = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    write_bytes(path, save(clean, metadata))


def load_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises FileNotFoundError or ValueError naming the path."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    try:
        with safe_open(path, "pt") as f:
            metadata = f.metadata() or {}
        return load_file(path), metadata
    except Exception as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error})") from error


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def write_sums(folder: Path) -> None:
    """Write ``folder/SHA256SUMS`` over all files below it (``sha256sum -c`` reads it too)."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    lines = [f"{sha256(p)}  {p.relative_to(folder).as_posix()}\n" for p in files]
    write_bytes(folder / "SHA256SUMS", "".join(lines).encode())


def check_sums(folder: Path) -> None:
    """Raises ValueError naming the first file of ``folder/SHA256SUMS`` that is missing or has another sum."""
    sums = folder / "SHA256SUMS"
    if not sums.is_file():
        raise ValueError(f"{folder}: no SHA256SUMS there; install the package again")
    for line in sums.read_text().splitlines():
        expected, name = line.split("  ", 1)
        path = folder / name
        if not path.is_file() or sha256(path) != expected:
            raise ValueError(f"{path} is missing or does not match its SHA-256 sum; restore it (git checkout) or "
                             "install the package again")  # fmt: skip


def save_half(module: torch.nn.Module, path: Path) -> None:
    """Save the state of ``module`` in fp16."""
    save_tensors(path, {name: t.half() for name, t in module.state_dict().items()})


def load_half(module: torch.nn.Module, path: Path, device: str | torch.device = "cpu") -> torch.nn.Module:
    """``module`` with the state that `save_half` wrote, in fp32, frozen, on ``device``."""
    tensors, _ = load_tensors(path)
    module.load_state_dict({name: t.float() for name, t in tensors.items()})
    return module.to(device).eval().requires_grad_(False)
