"""Experiments: cells, results files and tables."""

import json
from pathlib import Path

import pytest

from experiments import results as results_module
from experiments.render import render
from experiments.results import FORMAT, ResultError, path_of, read, run
from experiments.tables import SCALES, TABLES, Cell, cells
from lipjax.config import check_config

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("scale", SCALES)
def test_every_cell_has_a_valid_config_and_a_name_of_its_own(scale):
    configs = {}
    for table in TABLES:
        for _, cell in cells(table, scale):
            config = cell.config()
            check_config(config)
            assert configs.setdefault(cell.name, config.to_json()) == config.to_json()


def test_a_cell_is_run_resumed_and_rendered(tmp_path, monkeypatch):
    cell = dict(cells("pooling", "smoke"))["CRC, cone"]
    assert read(cell, tmp_path / "results") is None
    assert "not run" in render("pooling", "smoke", tmp_path / "results")
    with monkeypatch.context() as patch:  # killed between training and certification
        patch.setattr(results_module, "certify_run", lambda workdir: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(cell, tmp_path / "runs", tmp_path / "results", None)
    assert read(cell, tmp_path / "results") is None
    result = run(cell, tmp_path / "runs", tmp_path / "results", None)
    assert read(cell, tmp_path / "results") == result
    assert result["config"]["pooling"] == "projection"
    table = render("pooling", "smoke", tmp_path / "results")
    assert SCALES["smoke"].text in table
    assert f"| CRC, cone | 1 | {100 * result['summary']['standard_accuracy']:.2f} % |" in table


def test_means_and_spread_over_seeds(tmp_path):
    for seed, accuracy in ((0, 0.5), (1, 0.54)):
        cell = Cell("small", {}, seed)
        summary = {"standard_accuracy": accuracy, "certified_accuracy": {"36/255": accuracy / 2}}
        config = json.loads(cell.config().to_json())
        path_of(cell, tmp_path).parent.mkdir(parents=True, exist_ok=True)
        path_of(cell, tmp_path).write_text(json.dumps({"format": FORMAT, "config": config, "summary": summary}))
    line = next(line for line in render("pooling", "small", tmp_path).splitlines() if line.startswith("| LLN, max"))
    assert line == "| LLN, max | 2 | 52.00 % (50.00 … 54.00) | 26.00 % (25.00 … 27.00) |"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 0}', "needs format 1, got 0"),
        ("[1]", "needs format 1, got"),
        ('{"format": 1, "con', "not JSON"),
        (json.dumps({"format": 1, "config": {"depth": 5}}), "the table asks for"),
        (json.dumps({"format": 1}), "the table asks for"),
    ],
)
def test_bad_results_files_are_named(tmp_path, text, message):
    cell = Cell("small", {}, 0)
    path_of(cell, tmp_path).parent.mkdir(parents=True)
    path_of(cell, tmp_path).write_text(text)
    with pytest.raises(ResultError, match=message) as error:
        read(cell, tmp_path)
    assert str(path_of(cell, tmp_path)) in str(error.value)


@pytest.mark.parametrize(
    ("name", "page"), [("layers", "orthogonal.md"), ("pooling", "pooling.md"), ("activations", "pooling.md")]
)
def test_the_tables_of_the_docs_are_those_of_the_results(name, page):
    table = render(name, "small", ROOT / "experiments" / "results")
    assert "not run" not in table
    assert table in (ROOT / "docs" / page).read_text()
