"""Experiments: cells, results files, tables, figures, the page of results."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import accuracy, held_out, hours, paper, times
from experiments import results as results_module
from experiments.cells import Cell
from experiments.figures import draw
from experiments.gpu_networks import NETWORKS
from experiments.methods import TIMED
from experiments.page import with_tables
from experiments.render import render
from experiments.results import FORMAT, ResultError, _in_sections, path_of, read, run
from experiments.scales import SCALES
from experiments.tables import TABLES, all_seeds, cells, rows, scale_text
from lipjax.training.recipe import Recipe
from lipjax.workdir import flattened

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"
OF_THE_PAPER = ["1", "3", "4", "5", "6", "8"]


@pytest.mark.parametrize("scale", SCALES)
def test_every_cell_has_a_valid_config_and_a_name_of_its_own(scale):
    configs = {}
    for table in TABLES:
        for _, cell in cells(table, scale, all_seeds(table)):
            config = cell.config()
            Recipe.of(config)
            identity = json.dumps(cell.identity(), sort_keys=True)
            assert configs.setdefault(cell.name, identity) == identity
            assert len(f"{cell.name}.json.tmp") <= 255  # the longest name of a file
            for changes in TIMED.values() if cell.kind == "time" else ():
                config.update_from_flattened_dict(changes)
                Recipe.of(config)


def test_the_paper_scale_is_the_published_setting():
    whole = dict(cells("4", "paper"))["LipConvnet-40, + CRC"].identity()
    assert [whole[f"model.{key}"] for key in ("depth", "init_channels", "hidden")] == [40, 32, 4096]
    assert [whole[f"model.{key}"] for key in ("polynomial", "terms", "eval_terms")] == ["taylor", 6, 15]
    assert [whole[f"model.{key}"] for key in ("gradient", "pooling", "head")] == ["fast", "projection", "crc"]
    assert (whole["data.name"], whole["loss.name"]) == ("cifar100", "crc")
    assert (whole["loss.attack_radius"], whole["loss.curvature_weight"]) == (0.2, 0.75)
    assert (whole["run.epochs"], whole["optimizer.clip_norm"]) == (200, 1.0)
    whole = dict(cells("3", "paper"))["LipConvnet-15, Baseline"].identity()
    assert [whole[f"model.{key}"] for key in ("head", "pooling", "gradient")] == ["lln", "max", "exact"]
    assert (whole["data.name"], whole["loss.name"]) == ("cifar10", "cross_entropy")


def test_the_parts_of_tables_5_and_6_differ_by_one_thing_each():
    parts = {label.split(", ")[1]: cell for label, cell in cells("5", "small") if label.startswith("LipConvnet-5,")}
    assert parts["+ both"].name == dict(cells("3", "small"))["LipConvnet-5, + CRC"].name
    assert parts["+ Fast"].name == dict(cells("3", "small"))["LipConvnet-5, + Fast"].name
    assert parts["+ projection"].name == "polynomial-taylor_pooling-projection_seed-0"
    assert parts["+ CRC-Lip"].name == "clip_norm-1.0_head-crc_polynomial-taylor_seed-0"


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("LiResNet, 12 × 512", "liresnet_cifar10"),
        ("BRONet, 12 × 512", "bronet_cifar10"),
        ("LipNeXt, 32 × 1024", "lipnext_cifar10"),
    ],
)
def test_the_published_networks_are_those_of_the_configs(label, name):
    config = importlib.import_module(f"lipjax.configs.{name}").get_config()
    expected = flattened(Recipe.of(config).whole())
    assert dict(cells("published", "paper"))[label].identity() == json.loads(
        json.dumps({key: value for key, value in expected.items() if key != "data.data_dir"})
    )
    assert not cells("published", "small")


def test_hours_are_those_of_the_measured_step_where_it_is_that_step():
    measured = {f"step: {name}: default": {"seconds": 0.5, "seconds_in_a_row": 0.25} for name in NETWORKS}
    published = dict(cells("published", "paper"))
    for name in ("LiResNet, 12 × 512", "BRONet, 12 × 512", "LipNeXt, 32 × 1024"):
        cost = hours.cost_of(published[name], measured)
        assert (cost.measured, cost.steps, cost.hours) == (name, 156_000, pytest.approx(156_000 * 0.25 / 3600))
    cell = Cell("paper", {"model.depth": 20, "run.epochs": 2, "run.batch_size": 256}, 0)
    assert 1.5 < hours.cost_of(cell, measured).hours / (2 * 195 * 0.25 / 3600) < 2


def test_smoke_keeps_to_digits_and_to_a_row_or_two_of_each_table():
    for table in TABLES:
        assert {cell.identity()["model.depth"] for _, cell in cells(table, "smoke")} == {5}
        assert len(cells(table, "smoke")) == len(rows(table, "smoke")) == (2 if table in ("3", "4", "5", "6") else 1)
        assert all(cell.config().data.name == "digits" for _, cell in cells(table, "smoke"))


def test_results_on_disk_are_of_cells_that_exist():
    names = {cell.name for table in TABLES for _, cell in cells(table, "small", all_seeds(table))}
    assert {path.stem for path in (RESULTS / "small").glob("*.json")} <= names
    for table in TABLES:
        render(table, "small", RESULTS)


def test_an_accuracy_cell_is_run_resumed_and_rendered(tmp_path, monkeypatch):
    cell = dict(cells("pooling", "smoke"))["LLN, max"]
    assert read(cell, tmp_path / "results") is None
    assert "not run" in render("pooling", "smoke", tmp_path / "results")
    with monkeypatch.context() as patch:  # killed between training and certification
        patch.setattr(accuracy, "certify_run", lambda workdir: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(cell, tmp_path / "runs", tmp_path / "results", None)
    assert read(cell, tmp_path / "results") is None
    result = run(cell, tmp_path / "runs", tmp_path / "results", None)
    assert read(cell, tmp_path / "results") == result
    assert result["config"]["model.pooling"] == "max"
    table = render("pooling", "smoke", tmp_path / "results")
    assert scale_text("pooling", "smoke") in table
    assert f"| LLN, max | 1 | {100 * result['summary']['standard_accuracy']:.2f} % |" in table


@pytest.mark.slow
def test_a_time_cell_is_run_and_rendered(tmp_path, monkeypatch):
    monkeypatch.setattr(times, "STEPS", 1)
    ((label, cell),) = cells("1", "smoke")
    result = run(cell, tmp_path, tmp_path, None)
    assert read(cell, tmp_path) == result
    assert result["steps_per_epoch"] == 1437 // 128
    assert list(result["timed"]) == list(TIMED)
    line = next(line for line in render("1", "smoke", tmp_path).splitlines() if line.startswith(f"| {label}"))
    seconds = {name: timed["epoch_seconds"] for name, timed in result["timed"].items()}
    assert f"| {100 * (seconds['+ Fast'] / seconds['Previous'] - 1):.1f} % | -17.27 % |" in line
    assert line.endswith("| 30.63 → 25.34 |")


@pytest.mark.slow
def test_a_gradient_cell_is_run_and_rendered(tmp_path):
    label, cell = cells("gradient", "smoke")[0]
    result = run(cell, tmp_path / "runs", tmp_path / "results", None)
    assert read(cell, tmp_path / "results") == result
    errors, cosines = result["errors"]["fast"]["relative_error"], result["errors"]["fast"]["cosine"]
    assert 0 < max(errors) < 0.3
    # Of a relative error e the cosine is at least √(1 − e²).
    assert all(cosine >= (1 - error**2) ** 0.5 for error, cosine in zip(errors, cosines, strict=True))
    assert f"| {label} | " in render("gradient", "smoke", tmp_path / "results")


def _write(cell: Cell, results: Path, summary: dict) -> None:
    path_of(cell, results).parent.mkdir(parents=True, exist_ok=True)
    result = {"format": FORMAT, "config": cell.identity(), "summary": summary, "backend": "cpu"}
    path_of(cell, results).write_text(json.dumps(result))


def test_means_and_spread_over_seeds(tmp_path):
    for seed, accuracy_ in ((0, 0.5), (1, 0.54)):
        summary = {"standard_accuracy": accuracy_, "certified_accuracy": {"36/255": accuracy_ / 2}}
        _write(Cell("small", {}, seed), tmp_path, summary)
    line = next(line for line in render("pooling", "small", tmp_path).splitlines() if line.startswith("| LLN, max"))
    assert line == "| LLN, max | 2 | 52.00 % (50.00 … 54.00) | 26.00 % (25.00 … 27.00) |"


def test_a_row_has_the_seeds_that_ran_beside_the_paper_and_the_authors_program(tmp_path):
    summary = {"standard_accuracy": 0.5, "certified_accuracy": dict.fromkeys(paper.RADII, 0.25)}
    known = dict(cells("3", "small", (1,)))
    _write(known["LipConvnet-5, + CRC"], tmp_path, summary)
    lines = render("3", "small", tmp_path).splitlines()
    assert len(draw("3", "small", tmp_path, tmp_path)) == 2
    assert "| LipConvnet-5, + CRC | 1 | 50.00 % | 25.00 % | 25.00 % | 25.00 % | 79.36 · 67.13 · – · – |" in lines
    assert "| LipConvnet-5, + CRC, authors' program | 1 | 51.79 % | 40.53 % | 32.22 % | 24.50 % | |" in lines
    assert "| LipConvnet-15, + Fast | not run | | | | | 77.75 · 62.52 · 46.23 · 31.19 |" in lines
    assert "| LipConvnet-10, ours, LLN | not run | | | | | |" in lines
    assert "authors" not in render("3", "paper", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 0}', "needs format 1, got 0"),
        ("[1]", "needs format 1, got"),
        ('{"format": 1, "con', "not JSON"),
        (json.dumps({"format": 1, "config": {"depth": 5}}), "the table asks for"),
        (json.dumps({"format": 1}), "the table asks for"),
        (json.dumps({"format": 1, "config": [1]}), "needs a config, got"),
        (json.dumps({"format": 1, "config": Cell("small", {}, 0).identity()}), "has no 'summary'"),
    ],
)
def test_bad_results_files_are_named(tmp_path, text, message):
    cell = Cell("small", {}, 0)
    path_of(cell, tmp_path).parent.mkdir(parents=True)
    path_of(cell, tmp_path).write_text(text)
    with pytest.raises(ResultError, match=message) as error:
        read(cell, tmp_path)
    assert str(path_of(cell, tmp_path)) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_time_of_other_variants_is_refused(tmp_path):
    ((_, cell),) = cells("1", "smoke")
    path_of(cell, tmp_path).parent.mkdir(parents=True)
    config = cell.identity() | {"variants": {"Previous": {}}}
    path_of(cell, tmp_path).write_text(json.dumps({"format": 1, "config": config, "timed": {}}))
    with pytest.raises(ResultError, match="of another config: variants is"):
        read(cell, tmp_path)


def test_results_of_earlier_versions_are_read():
    path = RESULTS / "small" / "seed-0.json"
    assert "depth" in json.loads(path.read_text())["config"]  # flat, as in lipjax 0.1
    assert _in_sections(path, json.loads(path.read_text())["config"]) == Cell("small", {}, 0).identity()
    assert read(Cell("small", {}, 0), RESULTS)


def test_a_result_from_before_a_key_was_added_is_still_that_of_its_cell():
    cell = Cell("small", {"model.depth": 10}, 0)
    config = {key: value for key, value in cell.identity().items() if key not in ("data.mixup", "model.patch")}
    assert _in_sections(RESULTS, config) == cell.identity()


def test_what_is_held_out_is_judged_and_costed(tmp_path, monkeypatch):
    """On the digits: 90 % are trained on, the others judged; a recipe of twice the epochs costs about twice U."""
    monkeypatch.setattr(held_out, "STEPS", 3)
    (_, unit), *_ = cells("recipes", "smoke")
    result = results_module.run(unit, tmp_path / "runs", tmp_path / "results", None)
    assert result == read(unit, tmp_path / "results")
    config = json.loads((tmp_path / "runs" / "smoke" / unit.name / "config.json").read_text())
    assert config["data"]["validation_fraction"] == 0.1
    assert set(result["held_out"]["certified_accuracy"]) == {"36/255", "72/255", "108/255"}
    assert result["held_out"]["lipschitz_bound"] <= 1.001
    judged = list((tmp_path / "runs").rglob("per_image.csv"))
    assert judged
    assert all("certificates_validation" in path.parts for path in judged)  # the test split was not read
    row = next(
        line
        for line in render("recipes", "smoke", tmp_path / "results").splitlines()
        if line.startswith("| lipjax 0.1")
    )
    assert f"| {result['units']:.2f} | 1 |" in row


def test_the_cost_in_units_is_that_of_all_images(monkeypatch):
    """Steps of equal time: twice the epochs cost twice as much, twice the batch half as much."""

    class Timed:
        def __init__(self, recipe):
            pass

        def step(self):
            return 0.5

    monkeypatch.setattr(held_out, "TimedTraining", Timed)
    costs = [
        held_out.units_of(Cell("smoke", changes, 0, "held_out"))
        for changes in ({}, {"run.epochs": 2}, {"run.batch_size": 256})
    ]
    assert costs == [1.0, 2.0, 0.5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table=9"], "flag --table=9: value should be one of <1|3|4"),
        (["--table=3", "--scale=large"], "flag --scale=large: value should be one of <paper|small|smoke>"),
        (
            ["--table=3", "--scale=smoke", "--cell=x"],
            "--cell=x: table 3 at scale smoke has gradient-exact",
        ),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    command = [sys.executable, "-m", "experiments", "--render", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_cell_leaves_the_finished_ones(tmp_path, monkeypatch):
    def fail(cell, *_):
        raise ValueError(cell.name)

    monkeypatch.setattr(accuracy, "measure", lambda *_: {"summary": {}})
    first, second = (cell for _, cell in cells("3", "smoke"))
    results_module.run(first, tmp_path, tmp_path, None)
    monkeypatch.setattr(accuracy, "measure", fail)
    with pytest.raises(ValueError, match=second.name):
        results_module.run(second, tmp_path, tmp_path, None)
    assert read(first, tmp_path)
    assert read(second, tmp_path) is None
    assert [path.name for path in (tmp_path / "smoke").iterdir()] == [f"{first.name}.json"]


def test_the_papers_numbers_agree_with_one_another():
    for table, increases in ((paper.TABLE_3, paper.INCREASES_3), (paper.TABLE_4, paper.INCREASES_4)):
        for (depth, method), (standard, certified) in increases.items():
            row, baseline = table[depth, method], table[depth, "Baseline"]
            assert row.standard - baseline.standard == pytest.approx(standard, abs=0.006)
            assert row.certified_36 - baseline.certified_36 == pytest.approx(certified, abs=0.006)
        for (depth, _), row in table.items():
            numbers = [number for number in row if number is not None]
            assert numbers == sorted(numbers, reverse=True)
            assert len(numbers) == (4 if depth >= 15 else 2)
    for row in paper.TABLE_1.values():
        assert 100 * (row.ours / row.previous - 1) == pytest.approx(row.reduction, abs=0.011)


def test_figures_are_the_same_file_every_time(tmp_path):
    for table in ("3", "pooling"):
        first = draw(table, "small", RESULTS, tmp_path / "first")
        second = draw(table, "small", RESULTS, tmp_path / "second")
        assert first
        for one, other in zip(first, second, strict=True):
            assert one.read_bytes() == other.read_bytes()
            assert "dc:date" not in one.read_text()
    assert draw("6", "small", tmp_path / "no results", tmp_path / "none") == []


@pytest.mark.parametrize(
    ("name", "page"), [("layers", "orthogonal.md"), ("pooling", "pooling.md"), ("activations", "pooling.md")]
)
def test_the_tables_of_the_docs_are_those_of_the_results(name, page):
    table = render(name, "small", RESULTS)
    assert "not run" not in table
    assert table in (ROOT / "docs" / page).read_text()


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("results", [*OF_THE_PAPER, "terms", "gradient"]),
        ("recipes", ["recipes", "dial", "networks", "best", "best100"]),
    ],
)
def test_a_page_of_tables_is_up_to_date(name, tables):
    """If not: python -m experiments --table=all --scale=small --render --page=docs/NAME.md."""
    page = ROOT / "docs" / f"{name}.md"
    text = page.read_text()
    assert with_tables(page, RESULTS) == text
    for table in tables:
        assert render(table, "small", RESULTS) in text
    for link in re.findall(r"!\[[^]]*\]\(([^)]*)\)", text):
        assert (page.parent / link).exists()


def test_an_unknown_table_of_a_page_is_named(tmp_path):
    (tmp_path / "page.md").write_text("<!-- table 9, scale small -->\n<!-- end of table -->\n")
    with pytest.raises(ValueError, match=r"page\.md: table 9: must be one of 1, 3"):
        with_tables(tmp_path / "page.md", tmp_path)
