"""The notebooks run from start to end at smoke scale, and are saved with the outputs of a real run."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from notebooks.execute import clean, executed

FOLDER = Path(__file__).parent.parent / "notebooks"
NAMES = ("quickstart", "own_network", "tour_of_the_paper")

# Folders of a machine, addresses of a package registry, and what a warning begins with.
NOT_SAVED = re.compile(r"/(home|root|work|tmp|opt|usr|Users|content|var)/|~/|site-packages|pypi|Warning", re.IGNORECASE)
LARGEST_FILE = 400_000


def saved(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def summary_of(notebook) -> dict:
    """The JSON that the last cell prints."""
    return json.loads(code_cells(notebook)[-1].outputs[0].text)


def check_quickstart(summary):
    assert summary["radii"] == summary["images"]
    assert summary["largest_radius"] > 0
    assert summary["radius_where_wrong"] == 0
    assert summary["smallest_margin_inside"] > 0
    for radius, certified in summary["certified_accuracy"].items():
        assert certified <= summary["attacked_accuracy"][radius] <= summary["standard_accuracy"]


def check_own_network(summary):
    assert summary["radii"] == summary["radii_of_abs"] == summary["images"]
    assert summary["largest_radius"] > 0
    assert summary["lipschitz_bound"] == pytest.approx(1 / 0.35, rel=1e-6)
    assert 0.1 < summary["largest_ratio"] <= summary["lipschitz_bound"]
    assert summary["layers"] == 14
    assert "layer 'dense' must be a lipjax Layer, which states its proof; Dense is none" in summary["refused"]["Dense"]
    assert "Louder defines __call__ and no proof of its own" in summary["refused"]["Louder"]
    assert summary["stated"] == "| |a| − |b| | <= |a − b|"


def check_tour_of_the_paper(summary):
    # The cells check their equations themselves; these are the values that they compare with nothing.
    assert summary["gradient after 20 layers"] == pytest.approx(1, abs=0.02)
    assert 0 < summary["error of fast at 2"] < 0.2
    assert summary["exact certificates"] > 0.5
    radii = [value for name, value in summary.items() if name.startswith("mean radius")]
    assert len(radii) == 2
    assert radii[1] > radii[0] > 0


CHECKS = {
    "quickstart": check_quickstart,
    "own_network": check_own_network,
    "tour_of_the_paper": check_tour_of_the_paper,
}


def test_what_is_certified_and_attacked_has_the_colours_of_the_reports():
    sources = "".join(cell.source for cell in code_cells(saved("quickstart")))
    for name in ("CERTIFIED", "ATTACKED"):
        assert sources.count(f"color=palette.{name}.light") >= 2


def test_every_notebook_is_tested():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize(
    "name", ["quickstart", *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES if name != "quickstart")]
)
def test_it_runs_at_smoke_scale(name, tmp_path):
    notebook = executed(FOLDER / f"{name}.ipynb", tmp_path, LIPJAX_SMOKE="1", JAX_PLATFORMS="cpu")
    CHECKS[name](summary_of(notebook))


@pytest.mark.parametrize("name", NAMES)
def test_the_saved_outputs_are_of_a_whole_run(name):
    notebook = saved(name)
    CHECKS[name](summary_of(notebook))
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    silent = [cell.source for cell in cells if not cell.outputs]
    assert silent == []
    pictures = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 3
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)


@pytest.mark.parametrize("name", NAMES)
def test_the_saved_file_tells_nothing_of_the_machine(name):
    notebook = saved(name)
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    texts = [output.get("text", "") for output in outputs]
    texts += [output.data.get("text/plain", "") for output in outputs if "data" in output]
    assert [text for text in texts if NOT_SAVED.search(text)] == []
    size = (FOLDER / f"{name}.ipynb").stat().st_size
    assert size <= LARGEST_FILE
    before = nbformat.writes(notebook)
    clean(notebook)
    assert nbformat.writes(notebook) == before
