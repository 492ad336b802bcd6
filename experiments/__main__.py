"""Run the cells of a table, print it, draw it.

    python -m experiments --table=3 --scale=small [--data_dir=DIR --results=DIR --runs=DIR --cell=NAME]
    python -m experiments --table=3 --scale=small --render [--figures=docs/figures]
    python -m experiments --table=all --scale=small --render --page=docs/results.md
    python -m experiments --table=all --scale=smoke
    python -m experiments --table=best --cost [--cell=NAME]
    python -m experiments --table=published --scale=paper --hours

Resumable: finished cells are not run again, an unfinished training goes on from its last checkpoint.  Each cell can be
run by itself, on another machine too; its JSON file is all that the table needs.
"""

import sys
from pathlib import Path

from absl import app, flags, logging

from experiments import hours, page
from experiments.cells import Cell
from experiments.figures import draw
from experiments.held_out import units_of
from experiments.render import render
from experiments.results import ResultError, read, run
from experiments.scales import SCALES
from experiments.tables import TABLES, all_seeds, cells
from lipjax.checkpoint import CheckpointError
from lipjax.data import DataError
from lipjax.system import compilation, memory
from lipjax.system.interruption import Interrupted
from lipjax.training.loop import TrainingDiverged

TABLE = flags.DEFINE_enum("table", None, [*TABLES, "all"], "Which table.", required=True)
SCALE = flags.DEFINE_enum("scale", "small", list(SCALES), "At which size.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where tensorflow-datasets keeps its data.")
RESULTS = flags.DEFINE_string("results", "experiments/results", "Folder of the JSON files.")
RUNS = flags.DEFINE_string("runs", "runs/experiments", "Folder of the workdirs.")
CELL = flags.DEFINE_string("cell", None, "Run this cell only, and print no table.")
COST = flags.DEFINE_bool("cost", False, "Train nothing, print what the cell, or each of the table, costs in units U.")
HOURS = flags.DEFINE_bool("hours", False, "Train nothing, print the GPU hours that each cell would take, by a model.")
RENDER = flags.DEFINE_bool("render", False, "Run nothing, print the table of what there is.")
PAGE = flags.DEFINE_string("page", None, "Also bring the tables of this page of the docs up to date.")
FIGURES = flags.DEFINE_string("figures", None, "Also write the figures of the table to this folder.")


def main(argv):
    if len(argv) > 1:
        sys.exit(f"experiments: unexpected arguments {argv[1:]}; see --help")
    logging.set_verbosity(logging.WARNING)
    compilation.use_cache()
    memory.keep_freed()
    results, runs = Path(RESULTS.value), Path(RUNS.value)
    tables = list(TABLES) if TABLE.value == "all" else [TABLE.value]
    try:
        if HOURS.value:
            print(hours.rendered([cell for table in tables for cell in cells(table, SCALE.value)]), end="")
            return
        if COST.value:
            of_all = [cell for table in tables for _, cell in cells(table, SCALE.value)]
            for cell in [_named(CELL.value, tables)] if CELL.value else of_all:
                print(f"{units_of(cell):.2f} U  {cell.name}", flush=True)
            return
        if CELL.value:
            _run([_named(CELL.value, tables)], results, runs)
            return
        for table in filter(lambda table: SCALE.value in TABLES[table].scales, tables):
            if not RENDER.value:
                _run([cell for _, cell in cells(table, SCALE.value)], results, runs)
            print(render(table, SCALE.value, results))
            for path in draw(table, SCALE.value, results, Path(FIGURES.value)) if FIGURES.value else ():
                print(path)
        if PAGE.value:
            page.update(Path(PAGE.value), results)
    except (ValueError, OSError, DataError, CheckpointError, TrainingDiverged, Interrupted, ResultError) as error:
        sys.exit(f"experiments: {error}")


def _named(name: str, tables: list[str]) -> Cell:
    known = {cell.name: cell for table in tables for _, cell in cells(table, SCALE.value, all_seeds(table))}
    if name not in known:
        raise ValueError(f"--cell={name}: table {TABLE.value} at scale {SCALE.value} has {', '.join(known)}")
    return known[name]


def _run(wanted: list[Cell], results: Path, runs: Path) -> None:
    for cell in wanted:
        if read(cell, results) is None:
            print(f"{cell.scale}/{cell.name}", flush=True)
            run(cell, runs, results, DATA_DIR.value)


if __name__ == "__main__":
    app.run(main)
