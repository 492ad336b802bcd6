"""Execute notebooks from start to end and save them with their outputs.

    python notebooks/execute.py notebooks/quickstart.ipynb …

Each runs in an empty folder, by the kernel of this interpreter with this checkout first on its path.  What would change
from run to run or tell of the machine (times of execution, counters of messages, warnings) is not saved.
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

CHECKOUT = Path(__file__).resolve().parent.parent
CELL_SECONDS = 3600


def executed(path: Path, folder: Path, **environment: str) -> nbformat.NotebookNode:
    """The notebook after a run in `folder` with these environment variables; CellExecutionError if a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    place = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook, timeout=CELL_SECONDS, kernel_name="python3", resources=place, coalesce_streams=True
    )
    client.execute(env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment})
    return notebook


def clean(notebook: nbformat.NotebookNode) -> None:
    """Keep of the outputs what the notebook says itself: no warnings, no metadata of the run."""
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.language_info = {"name": "python"}


def main(paths: list[str]) -> None:
    """Execute and save each."""
    for path in map(Path, paths):
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(path, Path(folder))
        clean(notebook)
        path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
