"""Execute the notebooks and build the book; called by the Makefile.

* ``execute``: runs copies of ``notebooks/`` with nbmake, two at a time where there are two cores and no GPU is used, and
  keeps them, outputs included, in ``_build/executed``.
  Skipped when neither a notebook, nor the library, nor a pinned version has changed since the last run that passed.
* ``build``: stages ``_config.yml``, ``_toc.yml``, ``book/`` and the executed notebooks in ``_build/src`` (the same
  layout as the repository, so that the "open in Colab" links are right), writes what the runs took into them, and builds
  the HTML with warnings as errors; then the slides, the course kit and the archive of it all.
* ``record``: keeps what the last execution took in ``book/runs.json``, for pages built on other machines (a GPU's run).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import exercises
import runs
import slides

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
EXECUTED = BUILD / "executed"
RUNS = EXECUTED / "runs.json"
SOURCE = BUILD / "src"
HTML = BUILD / "html"
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
        before = runs.recorded().get(profile, {})  # the longest first, so that none of them is left for the end
        order = sorted(notebooks(), key=lambda path: -before.get(path.stem, {}).get("seconds", 0))
        copies = [shutil.copy(path, folder) for path in order]
        for path in copies:
            runs.measure(Path(path))
        command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", folder, "--nbmake"]
        command += [f"--nbmake-timeout={TIMEOUT}", "--nbmake-kernel=python3", "--overwrite", "-p", "no:cacheprovider"]
        command += ["-q", "--durations=0", "--durations-min=0", "-n", str(workers), "--dist", "worksteal", *copies]
        subprocess_or_exit(command, "a notebook failed: its cell and error are above", UNIFORGET_OUT=str(out),
                           UNIFORGET_BOOK_BUILD="1", OMP_NUM_THREADS=str(threads))  # fmt: skip
        took = {Path(path).stem: runs.take(Path(path)) | {"workers": workers} for path in sorted(copies)}
        RUNS.write_text(json.dumps(took, indent=1))
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
    shutil.copytree(ROOT / "notebooks" / "exercises", SOURCE / "notebooks" / "exercises")
    generate()
    # plotly.js comes from the installed wheel, so that it always matches the Python side and needs no CDN.
    import plotly

    script = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    shutil.copy(script, SOURCE / "book" / "_static")


def generate() -> None:
    """Write into the staged book what only its runs know."""
    took, others = json.loads(RUNS.read_text()), runs.recorded()
    folder = SOURCE / "book" / "_generated"
    folder.mkdir()
    (folder / "status.md").write_text(runs.status(took, others), encoding="utf-8")
    report = json.loads((EXECUTED / "out" / "report.json").read_text())
    (folder / "result.md").write_text(runs.result(report["rows"]), encoding="utf-8")
    (folder / "result.html").write_text(
        runs.figure(EXECUTED / "notebooks" / "00_tour.ipynb", "result"), encoding="utf-8"
    )
    (folder / "exercises.md").write_text(exercises.listing(), encoding="utf-8")
    for name, run in took.items():
        path = SOURCE / "notebooks" / f"{name}.ipynb"
        notebook = json.loads(path.read_text(encoding="utf-8"))
        first = "".join(notebook["cells"][0]["source"])
        title, rest = first.split("\n", 1)
        notebook["cells"][0]["source"] = f"{title}\n\n{runs.line(name, run, others)}\n{rest}"
        path.write_text(json.dumps(notebook, ensure_ascii=False), encoding="utf-8")


def extras() -> None:
    """Slides, the course kit (student, handout and instructor notebooks) and the book as one archive, below the HTML."""
    (HTML / "slides").mkdir()
    for path in sorted((EXECUTED / "notebooks").glob("*.ipynb")):
        source = exercises.SOURCES / f"{path.stem}.py"
        found = exercises.read(source)[1] if source.is_file() else []
        (HTML / "slides" / f"{path.stem}.html").write_text(slides.deck(path, found), encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="uniforget-") as folder:
        course = Path(folder) / "uniforget-course"
        exercises.course(course)
        shutil.make_archive(str(HTML / "uniforget-course"), "zip", folder, course.name)
        shutil.copytree(HTML, Path(folder) / "uniforget-book", dirs_exist_ok=True)
        shutil.make_archive(str(HTML / "uniforget-book"), "zip", folder, "uniforget-book")


def build() -> None:
    started = time.monotonic()
    print("== book: building the HTML, warnings are errors", flush=True)
    stage()
    for folder in ("html", ".doctrees"):
        shutil.rmtree(BUILD / folder, ignore_errors=True)
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    command = [str(jupyter_book), "build", str(SOURCE), "--path-output", str(ROOT), "-W", "-n", "--keep-going", "-q"]
    subprocess_or_exit(command, "the book did not build: the warnings above are errors")
    extras()
    print(f"== book: built in {time.monotonic() - started:.0f} s")
    print(f"== open: {HTML / 'index.html'}")


def record() -> None:
    if not RUNS.is_file():
        sys.exit("no notebook has been executed yet: run `make book`")
    runs.record(json.loads(RUNS.read_text()))
    print(f"== written: {runs.RECORDED}")


def subprocess_or_exit(command: list[str], message: str, **env: str) -> None:
    if subprocess.run(command, cwd=ROOT, env={**os.environ, **env}).returncode:
        sys.exit(message)


if __name__ == "__main__":
    actions = {"execute": execute, "build": build, "record": record}
    if len(sys.argv) != 2 or sys.argv[1] not in actions:
        sys.exit(f"usage: python tools/book.py {{{','.join(actions)}}}")
    actions[sys.argv[1]]()
