"""The template notebook takes a model of one's own through the pipeline, by papermill parameters, and resumes."""

import json
import os

import papermill
import pytest
from conftest import tiny_sd
from PIL import Image
from test_structure import ROOT

from uniforget_lib import Report
from uniforget_lib.sweep import read_suspects

NOTEBOOK = ROOT / "notebooks" / "07_your_model.ipynb"
NEUTRAL = ["a cat on a blue ground", "a tree on a white ground", "a house", "a dog left of a car"]


def prompts(folder, rows):
    (folder / "mine.csv").write_text("caption,file\n" + "".join(f"{caption},{file}\n" for caption, file in rows))
    return folder / "mine.csv"


@pytest.mark.slow
def test_template_runs_on_a_model_of_ones_own_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFORGET_OUT", str(tmp_path / "out"))
    monkeypatch.setenv("UNIFORGET_PROFILE", "cpu")
    tiny_sd().pipe.save_pretrained(tmp_path / "model")
    Image.new("RGB", (90, 70), "red").save(tmp_path / "a.png")
    (tmp_path / "neutral.txt").write_text("\n".join(NEUTRAL) + "\n\n")
    given = {"MODEL": str(tmp_path / "model"), "PROMPTS": str(prompts(tmp_path, [("my dog rex", "a.png"), ("a cafe", "a.png")])),
             "NEUTRAL": str(tmp_path / "neutral.txt"), "MASK_STEPS": 2, "BATCH": 2, "STEPS": 2, "GUIDANCE": 1.5,
             "ATTACK_STEPS": 1}  # fmt: skip
    rows = []
    for strengths in ([0.05], [0.05, 0.1]):
        options = {"kernel_name": "python3", "progress_bar": False, "cwd": str(tmp_path)}
        papermill.execute_notebook(NOTEBOOK, tmp_path / "done.ipynb", given | {"STRENGTHS": strengths}, **options)
        rows.append(Report.from_json(tmp_path / "out" / "your_model" / "sweep" / "sweep.json").rows)
    assert [len(r) for r in rows] == [4, 7] and rows[1][:4] == rows[0], "the second run kept the rows of the first"
    assert all("copied" in row for row in rows[1])
    made = tmp_path / "out" / "your_model"
    tested = json.loads((made / "model" / "tested.json").read_text())
    assert tested["meta"]["strength"] == 0.1 and (made / "model" / "uniforget.json").is_file()
    attacked = Report.from_json(made / "attacked.json").rows
    assert {(r["model"], r["goal"]) for r in attacked} == {
        (m, g) for m in ("unpruned", "pruned") for g in ("suspects", "mirrored")
    }


def test_suspects_are_read_or_refused_by_line(tmp_path):
    Image.new("RGB", (90, 70), "red").save(tmp_path / "a.png")
    captions, pictures = read_suspects(prompts(tmp_path, [("my dog", "a.png"), ("a cafe", "a.png")]), 32)
    assert captions == ["my dog", "a cafe"] and pictures.shape == (2, 3, 32, 32)
    assert pictures[0, 0].min() > 0.99 and pictures[0, 1].max() < 0.01
    assert read_suspects(prompts(tmp_path, [("my dog", "")]), 32) == (["my dog"], None)
    (tmp_path / "b.png").write_text("no picture")
    for rows, error, text in (([("", "a.png")], ValueError, "line 2: no caption"), ([("x", "c.png")], FileNotFoundError, "line 2"),
                              ([("x", "b.png")], ValueError, "no picture"), ([("x", "a.png"), ("y", "")], ValueError, "1 of 2")):  # fmt: skip
        with pytest.raises(error, match=text):
            read_suspects(prompts(tmp_path, rows), 32)


@pytest.fixture(scope="module")
def swept():
    path = ROOT / "_build" / "executed" / "out" / "your_model" / "sweep" / "sweep.json"
    if not path.is_file():
        if os.environ.get("UNIFORGET_REQUIRE_BOOK"):
            pytest.fail(f"{path} is missing: the template was not executed")
        pytest.skip("the template was not executed: run `make book`")
    return {(row["method"], row["strength"]): row for row in Report.from_json(path).rows}


@pytest.mark.parametrize("strength", [3.1, 10.0])
def test_what_the_page_says_of_the_testbed_is_what_its_run_found(swept, strength):
    """UniForget's points lie far to the left of the controls', which remove as many units."""
    ours = swept["uniforget", strength]
    for method in ("random", "magnitude"):
        other = swept[method, strength]
        assert other["removed"] == ours["removed"] and other["neutral_change"].low > 1.5 * ours["neutral_change"].high
