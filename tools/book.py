"""Execute the notebooks and build the book; called by the Makefile.

* ``execute``: runs copies of ``notebooks/`` with nbmake, two at a time where there are two cores and no GPU is used, and
  keeps them, outputs included, in ``_build/executed``.
  Skipped when neither a notebook, nor the library, nor a pinned version has changed since the last run that passed.
* ``build``: stages ``_config.yml``, ``_toc.yml``, ``book/`` and the executed notebooks in ``_build/src`` (the same
  layout as the repository, so that the "open in Colab" links are right) and builds the HTML with warnings as errors.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
EXECUTED = BUILD / "executed"
SOURCE = BUILD / "src"
TIMEOUT = 1800  # seconds a notebook may take


def notebooks() -> list[Path]:
    found = sorted(p for p in (ROOT / "notebooks").glob("*.ipynb") if not p.name.startswith("."))
    if not found:
        sys.exit("no notebook in notebooks/: nothing to execute")
    return found


def fingerprint() -> str:
    """One hash over everything that an output depends on: notebooks, library, weights, pinned versions, profile."""
    digest = hashlib.sha256(os.environ.get("UNIFORGET_PROFILE", "").encode())
    files = [*notebooks(), ROOT / "constraints.txt", *sorted((ROOT / "uniforget_lib").rglob("*"))]
    for path in files:
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def execute() -> None:
    key = fingerprint()
    stamp = EXECUTED / "fingerprint"
    if stamp.is_file() and stamp.read_text() == key:
        print("== notebooks: unchanged since the last execution, outputs kept (make clean starts again)")
        return
    shutil.rmtree(EXECUTED, ignore_errors=True)
    out = EXECUTED / "out"
    out.mkdir(parents=True)
    profile = os.environ.setdefault("UNIFORGET_PROFILE", "cpu")
    cores = os.cpu_count() or 1
    workers = min(2, cores) if profile == "cpu" else 1  # side by side on a GPU they would share its memory
    threads = min(2, cores // workers)
    names = ", ".join(path.stem for path in notebooks())
    print(f"== notebooks: executing {names} on the {profile} profile", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="uniforget-") as folder:  # nbmake ignores every path below a "_build"
        copies = [shutil.copy(path, folder) for path in notebooks()]
        command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", folder, "--nbmake"]
        command += [f"--nbmake-timeout={TIMEOUT}", "--nbmake-kernel=python3", "--overwrite", "-p", "no:cacheprovider"]
        command += ["-q", "--durations=0", "--durations-min=0", "-n", str(workers), "--dist", "worksteal", *copies]
        subprocess_or_exit(command, "a notebook failed: its cell and error are above", UNIFORGET_OUT=str(out),
                           UNIFORGET_BOOK_BUILD="1", OMP_NUM_THREADS=str(threads))  # fmt: skip
        shutil.copytree(folder, EXECUTED / "notebooks", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    stamp.write_text(key)
    print(f"== notebooks: executed in {time.monotonic() - started:.0f} s, now in {EXECUTED / 'notebooks'}")


def stage() -> None:
    executed = EXECUTED / "notebooks"
    if not executed.is_dir():
        sys.exit("the notebooks have not been executed yet: run `make book`")
    shutil.rmtree(SOURCE, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, SOURCE)
    shutil.copytree(ROOT / "book", SOURCE / "book")
    shutil.copytree(executed, SOURCE / "notebooks")
    # plotly.js comes from the installed wheel, so that it always matches the Python side and needs no CDN.
    import plotly

    script = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    shutil.copy(script, SOURCE / "book" / "_static")


def build() -> None:
    started = time.monotonic()
    print("== book: building the HTML, warnings are errors", flush=True)
    stage()
    for folder in ("html", ".doctrees"):
        shutil.rmtree(BUILD / folder, ignore_errors=True)
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    command = [str(jupyter_book), "build", str(SOURCE), "--path-output", str(ROOT), "-W", "-n", "--keep-going", "-q"]
    subprocess_or_exit(command, "the book did not build: the warnings above are errors")
    print(f"== book: built in {time.monotonic() - started:.0f} s")
    print(f"== open: {BUILD / 'html' / 'index.html'}")


def subprocess_or_exit(command: list[str], message: str, **env: str) -> None:
    if subprocess.run(command, cwd=ROOT, env={**os.environ, **env}).returncode:
        sys.exit(message)


if __name__ == "__main__":
    actions = {"execute": execute, "build": build}
    if len(sys.argv) != 2 or sys.argv[1] not in actions:
        sys.exit(f"usage: python tools/book.py {{{','.join(actions)}}}")
    actions[sys.argv[1]]()
