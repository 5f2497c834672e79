"""The four notebooks: the committed outputs are whole and tidy, and each runs from top to bottom, headless, in quick mode."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
SMALLER = {
    "Sigmoid_vs_ReLU": ["epochs=1", "model.depth=[1, 3]"],
    "BatchNorm_vs_GroupNorm": ["epochs=1", "batch_size=[16, 128]"],
    "BatchNorm_vs_GroupNorm - Many Epochs": ["epochs=3", "schedule.warmup_epochs=1", "batch_size=[32, 128]"],
    "Conv_Activation_Norm_Position": ["epochs=1"],
}
"""What makes each quick study a matter of seconds; every factor keeps two levels, so that every cell has something to show."""
SECTIONS = ("Goal · 목표", "Background · 배경", "Set-up · 준비", "Results · 결과", "Observation · 관찰")
SWITCH = "QUICK = True  # ← False: real CIFAR, work for a GPU; "

named = pytest.mark.parametrize("name", SMALLER)


def read(name: str) -> nbformat.NotebookNode:
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def text_of(output: nbformat.NotebookNode) -> str:
    parts = [output.get("text", ""), *(content for kind, content in output.get("data", {}).items() if kind[:4] == "text")]
    return "\n".join("".join(part) for part in parts)


def test_the_notebooks_are_the_four_of_the_brief() -> None:
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == sorted(SMALLER)


@named
def test_the_story_is_told_in_order_and_in_both_languages(name: str) -> None:
    written = [cell.source for cell in read(name).cells if cell.cell_type == "markdown"]
    headings = [line.lstrip("# ") for source in written for line in source.splitlines() if line.startswith("## ")]
    assert [heading for heading in headings if heading in SECTIONS] == list(SECTIONS)
    for source in written:
        assert len(re.findall("[a-z]{2,}", source)) >= 5, source
        assert re.search("[가-힣]{2,}", source), source


@named
def test_one_cell_near_the_top_is_the_switch(name: str) -> None:
    code = [cell.source for cell in read(name).cells if cell.cell_type == "code"]
    assert [number for number, source in enumerate(code) if SWITCH in source] == [1]


@named
def test_the_committed_outputs_are_whole_and_tidy(name: str) -> None:
    notebook = read(name)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    shown = outputs(notebook)
    assert {output.output_type for output in shown} <= {"stream", "display_data", "execute_result"}
    assert not [output.text for output in shown if output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 4
    assert any("report.html" in text_of(output) for output in shown)
    assert "Traceback" not in "".join(map(text_of, shown))
    assert "Warning" not in "".join(map(text_of, shown))


@named
def test_nothing_of_the_machine_that_made_them_is_committed(name: str) -> None:
    notebook = read(name)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.language_info == {"name": "python"}
    assert not [cell.id for cell in notebook.cells if cell.metadata]
    for text in [cell.source for cell in notebook.cells] + list(map(text_of, outputs(notebook))):
        assert not re.findall(r"/(?:work|tmp|root|home|Users|content)/\S*|\b[A-Z]:\\\S*", text)


@named
def test_it_runs_from_top_to_bottom(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")  # else jupyter_core warns of the folders that it used to take
    notebook = read(name)
    [load] = [cell for cell in notebook.cells if "allelse.load(" in cell.get("source", "")]
    smaller = "".join(f"{change!r}, " for change in SMALLER[name])
    assert load.source.count("quick=QUICK") == load.source.count("changes=[") == 1
    load.source = load.source.replace("quick=QUICK", "quick=QUICK, seeds=2").replace("changes=[", f"changes=[{smaller}")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []

    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()

    shown = outputs(notebook)
    assert not [output for output in shown if output.output_type == "error"]
    assert not [output.text for output in shown if output.get("name") == "stderr"]
    assert [path.name for path in (tmp_path / "runs").glob("*/report.html")] == ["report.html"]
    assert any(word in "".join(map(text_of, shown)) for word in ("✓ supported", "✗ refuted", "? undecided"))
