"""The notebooks run from start to end at smoke scale, and are saved with the outputs of a real run."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest

from notebooks import publish
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


def table_of(notebook) -> dict[str, list[str]]:
    """The rows of the table that the last cell shows, by their first cell."""
    text = code_cells(notebook)[-1].outputs[0].data["text/markdown"]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines()]
    return {name: values for name, *values in rows}


def percent(text: str) -> float:
    return float(text.removesuffix("%"))


# The cells check of themselves what must hold; here is what the tables say.
def check_quickstart(table):
    (standard, _), rows = (
        table["0"],
        [row for name, row in table.items() if re.fullmatch(r"0\.25|0\.5|0\.75|1\.0", name)],
    )
    assert len(rows) == 4
    for certified, attacked in rows:
        assert 0 <= percent(certified) <= percent(attacked) <= percent(standard)


def check_own_network(table):
    assert float(table["largest certified radius"][0]) > 0
    bound = float(table["proven Lipschitz bound of the features"][0])
    assert bound == pytest.approx(1 / 0.35, rel=1e-6)
    assert 0.1 < float(table["largest ratio of distances that was seen"][0]) <= bound
    assert table["maps in the chain of proof"] == ["14"]
    assert table["what Abs states"] == [r"\| \|a\| − \|b\| \| <= \|a − b\|"]


def check_tour_of_the_paper(table):
    assert float(table["gradient after 20 layers"][0]) == pytest.approx(1, abs=0.02)
    assert 0 < float(table["error of fast at 2"][0]) < 0.2
    assert float(table["exact certificates"][0]) > 0.5
    radii = [float(value) for name, (value,) in table.items() if name.startswith("mean radius")]
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


def lines_of(cell) -> list[str]:
    return [line for line in cell.source.splitlines() if line.strip() and not line.lstrip().startswith("#")]


@pytest.mark.parametrize("name", NAMES)
def test_the_first_picture_comes_after_less_than_ten_lines(name):
    install, picture, *_ = code_cells(saved(name))
    assert 'REPOSITORY = "' in install.source
    assert len(lines_of(install)) == 4
    assert any("image/png" in output.get("data", {}) for output in picture.outputs)
    lines = lines_of(picture)
    first = next(i for i, line in enumerate(lines) if "plt." in line)
    assert first < 10


@pytest.mark.parametrize("name", NAMES)
def test_it_needs_the_wheel_alone(name):
    """What is imported is lipjax, what it depends on, or the kernel's own."""
    with (FOLDER.parent / "pyproject.toml").open("rb") as file:
        needed = {re.match(r"[\w-]+", entry)[0] for entry in tomllib.load(file)["project"]["dependencies"]}
    source = "\n".join(cell.source for cell in code_cells(saved(name)))
    roots = set(re.findall(r"^ *(?:import|from) (\w+)", source, re.MULTILINE))
    assert roots <= needed | {"lipjax", "IPython"} | set(sys.stdlib_module_names)
    assert "docs/" not in source
    assert "configs/" not in source


def test_publishing_names_the_repository_once():
    notebook = saved("quickstart")
    before = nbformat.writes(notebook)
    for _ in range(2):
        publish.published(notebook, "someone/lipjax", "quickstart")
    after = nbformat.writes(notebook)
    assert 'REPOSITORY = "git+https://github.com/someone/lipjax"' in notebook.cells[1].source
    title = notebook.cells[0].source
    assert title.count("github/someone/lipjax/blob/main/notebooks/quickstart.ipynb") == 1
    assert len(after) > len(before)
    with pytest.raises(ValueError, match="must be OWNER/NAME"):
        publish.published(notebook, "https://github.com/someone/lipjax", "quickstart")


@pytest.mark.parametrize("given", [[], ["a/b", "c"]])
def test_publishing_says_what_to_type(given):
    done = subprocess.run([sys.executable, publish.__file__, *given], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        f"publish.py: got {given}; type python notebooks/publish.py OWNER/NAME\n",
    )


def test_every_notebook_is_tested():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize(
    "name", ["quickstart", *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES if name != "quickstart")]
)
def test_it_runs_at_smoke_scale(name, tmp_path):
    notebook = executed(FOLDER / f"{name}.ipynb", tmp_path, LIPJAX_SMOKE="1", JAX_PLATFORMS="cpu")
    CHECKS[name](table_of(notebook))


@pytest.mark.parametrize("name", NAMES)
def test_the_saved_outputs_are_of_a_whole_run(name):
    notebook = saved(name)
    CHECKS[name](table_of(notebook))
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    silent = [cell.source for cell in cells[1:] if not cell.outputs]  # the first installs
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
