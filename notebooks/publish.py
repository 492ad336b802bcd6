"""Tell the notebooks where the repository is: the address in the install cell, and a badge that opens them in Colab.

    python notebooks/publish.py OWNER/NAME

of a public repository on GitHub; outputs stay as they are.
"""

import re
import sys
from pathlib import Path

import nbformat

FOLDER = Path(__file__).resolve().parent
_ADDRESS = re.compile(r'^REPOSITORY = ".*"$', re.MULTILINE)
_BADGE = re.compile(r"^\[!\[Open in Colab\]\(.*\n\n", re.MULTILINE)


def published(notebook: nbformat.NotebookNode, repository: str, name: str) -> nbformat.NotebookNode:
    """The notebook with that address in its second cell and a badge in its first."""
    title, install, *_ = notebook.cells
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"repository={repository!r}: must be OWNER/NAME")
    if len(_ADDRESS.findall(install.source)) != 1:
        raise ValueError(f"{name}: its second cell has no line REPOSITORY = …")
    page = f"https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name}.ipynb"
    badge = f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({page})\n\n"
    title.source = badge + _BADGE.sub("", title.source)
    install.source = _ADDRESS.sub(f'REPOSITORY = "git+https://github.com/{repository}"', install.source)
    return notebook


def main(repository: str) -> None:
    """Write all notebooks of this folder."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = published(nbformat.read(path, as_version=4), repository, path.stem)
        path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"publish.py: got {sys.argv[1:]}; type python notebooks/publish.py OWNER/NAME")
    main(sys.argv[1])
