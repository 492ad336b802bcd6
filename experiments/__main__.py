"""Train the cells of a table and print it.

    python -m experiments --table=pooling --scale=small [--data_dir=DIR --results=DIR --runs=DIR --cell=NAME]
    python -m experiments --table=pooling --scale=small --render

Resumable: finished cells are not run again, an unfinished one goes on from its last checkpoint.  Each cell can be run
by itself, on another machine too; its JSON file is all that the table needs.
"""

import sys
from pathlib import Path

from absl import app, flags, logging

from experiments.render import render
from experiments.results import ResultError, read, run
from experiments.tables import SCALES, TABLES, cells
from lipjax import compilation
from lipjax.checkpoint import CheckpointError
from lipjax.data import DataError
from lipjax.training import TrainingDiverged

TABLE = flags.DEFINE_enum("table", None, sorted(TABLES), "Which table.", required=True)
SCALE = flags.DEFINE_enum("scale", "small", list(SCALES), "At which size.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where tensorflow-datasets keeps its data.")
RESULTS = flags.DEFINE_string("results", "experiments/results", "Folder of the JSON files.")
RUNS = flags.DEFINE_string("runs", "runs/experiments", "Folder of the workdirs.")
CELL = flags.DEFINE_string("cell", None, "Run this cell only, and print no table.")
RENDER = flags.DEFINE_bool("render", False, "Run nothing, print the table of what there is.")


def main(argv):
    if len(argv) > 1:
        sys.exit(f"experiments: unexpected arguments {argv[1:]}; see --help")
    logging.set_verbosity(logging.WARNING)
    compilation.use_cache()
    results, runs = Path(RESULTS.value), Path(RUNS.value)
    wanted = {cell.name: cell for _, cell in cells(TABLE.value, SCALE.value)}
    if CELL.value:
        if CELL.value not in wanted:
            sys.exit(f"experiments: --cell={CELL.value}: table {TABLE.value} has {', '.join(wanted)}")
        wanted = {CELL.value: wanted[CELL.value]}
    try:
        if not RENDER.value:
            for name, cell in wanted.items():
                if read(cell, results) is None:
                    print(f"{SCALE.value}/{name}", flush=True)
                    run(cell, runs, results, DATA_DIR.value)
        if not CELL.value:
            print(render(TABLE.value, SCALE.value, results))
    except (ValueError, OSError, DataError, CheckpointError, TrainingDiverged, ResultError) as error:
        sys.exit(f"experiments: {error}")


if __name__ == "__main__":
    app.run(main)
