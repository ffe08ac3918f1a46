"""House rules that a machine can hold: who imports whom, file length, thin cells, notebooks without outputs."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "uniforget_lib"
FILES = sorted(LIBRARY.rglob("*.py"))
# Lower may not import higher; the order is that of the pipeline.
ORDER = ["files", "progress", "sites", "masks", "sampler", "hooks", "models", "detect", "locate", "prune", "complement", "mitigate", "stress",
         "evaluate", "report", "sweeps", "page", "viz", "live", "testbed", "experiments"]  # fmt: skip
METHODS = ("detect", "locate", "complement", "mitigate", "stress")


def layer(path: Path) -> str:
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def imported_layers(path: Path) -> set[str]:
    """Layers of the library that a file imports at run time (TYPE_CHECKING blocks do not count)."""
    package = path.relative_to(LIBRARY).parts[:-1]
    found = set()
    tree = ast.parse(path.read_text())
    typing_only = {id(n) for b in ast.walk(tree) if isinstance(b, ast.If) and "TYPE_CHECKING" in ast.dump(b.test)
                   for n in ast.walk(b)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in typing_only:
            base = package[: len(package) - node.level + 1]
            parts = [*base, *(node.module or "").split(".")]
            found |= {parts[0]} if parts[0] else {a.name for a in node.names}
    return found - {""}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(LIBRARY)))
def test_imports_point_up_the_list(path):
    own = layer(path)
    if own in ("__init__", "profile", "gpu_check"):
        return
    for other in imported_layers(path) - {own}:
        assert ORDER.index(other) < ORDER.index(own), f"{path.name} ({own}) imports {other}"


@pytest.mark.parametrize("folder", METHODS)
def test_methods_do_not_import_each_other(folder):
    names = {p.stem for p in (LIBRARY / folder).glob("[!_]*.py")}  # what begins with _ is shared by them
    assert names
    for path in (LIBRARY / folder).glob("*.py"):
        if path.stem == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                assert (node.module or "") not in names - {path.stem}, f"{path.name} imports {node.module}"


@pytest.mark.parametrize("path", FILES + sorted((ROOT / "tests").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_readable_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks").rglob("*.ipynb")), ids=lambda p: f"{p.parent.name}-{p.stem}"
)
def test_notebooks_are_thin_and_clean(path):
    cells = json.loads(path.read_text())["cells"]
    code = [c for c in cells if c["cell_type"] == "code"]
    assert path.parent.name == "exercises" or any("parameters" in c["metadata"].get("tags", []) for c in code)
    for cell in code:
        assert cell["outputs"] == [] and cell["execution_count"] is None
        assert len("".join(cell["source"]).splitlines()) <= 15


def source(cell):
    return "".join(cell["source"])


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_chapters_open_and_end_alike(path):
    cells = json.loads(path.read_text())["cells"]
    words = [source(c) for c in cells if c["cell_type"] == "markdown"]
    goals = words[0].partition("**You will learn to**")[2].partition("**Before you start:**")
    assert 3 <= goals[0].count("\n* ") <= 4 and goals[2]
    assert re.search(r"Runs in (less than |about )?[\w .]+ on two CPU cores", words[0])
    takeaways, exercises = (f"\n{words[-1]}".partition(f"\n## {part}\n")[2] for part in ("Key takeaways", "Exercises"))
    assert 4 <= len(re.findall(r"^[*-] ", takeaways.partition("\n## ")[0], flags=re.M)) <= 7 and exercises
    if path.stem not in ("00_tour", "07_your_model"):
        assert f"</notebooks/exercises/{path.stem}>" in exercises


def test_versions_agree_and_every_notebook_installs_the_tag():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), flags=re.M).group(1)
    assert re.search(rf"^version: {version}$", (ROOT / "CITATION.cff").read_text(), flags=re.M)
    assert f'__version__ = "{version}"' in (LIBRARY / "__init__.py").read_text()
    config = (ROOT / "_config.yml").read_text()
    address = re.search(r"^  url: (\S+)", config, flags=re.M).group(1)
    assert re.search(rf"^  branch: v{version}\b", config, flags=re.M), (
        "Colab opens the notebooks of the tag that they install"
    )
    for path in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        first = next(source(c) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code")
        assert f"git+{address}@v{version}" in first and "-U" not in first, path.name
        assert not re.search(r"pip install.*(torch|numpy|diffusers)\b", first), "nothing repins what Colab brings"


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")])


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_nothing_waits_to_be_filled_in(path):
    assert not re.findall(r"\b[A-Z]+_(?:READING|TIMES)\b|\bTODO\b|\bREADTIME\b|\bTAKEAWAYS\b", path.read_text())
