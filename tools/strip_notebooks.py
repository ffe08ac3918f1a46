"""Remove outputs, execution counts and stale widget state from notebooks (pre-commit; prints what it changed).

Colab saves ``metadata.widgets`` without its ``state``, which GitHub and nbconvert reject: outputs never go into git.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def strip(notebook: dict) -> dict:
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
        cell["metadata"].pop("execution", None)
    notebook["metadata"].pop("widgets", None)
    return notebook


def main(paths: list[str]) -> int:
    changed = 0
    for path in map(Path, paths):
        before = path.read_text(encoding="utf-8")
        after = json.dumps(strip(json.loads(before)), indent=1, ensure_ascii=False) + "\n"
        if json.loads(before) != json.loads(after):
            path.write_text(after, encoding="utf-8")
            print(f"stripped {path}")
            changed = 1
    return changed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
