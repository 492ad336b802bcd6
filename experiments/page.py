"""A page of the docs with rendered tables: each between two comments, the first of which names it."""

import re
from pathlib import Path

from experiments.render import render
from experiments.scales import SCALES
from experiments.tables import TABLES
from lipjax.system.files import atomic_write

_BLOCK = re.compile(r"(<!-- table (\S+), scale (\S+) -->\n)(.*?)(<!-- end of table -->\n)", re.DOTALL)


def with_tables(page: Path, results: Path) -> str:
    """The text of the page with every table as it is rendered now.

    Raises:
      ValueError: a comment names a table or a scale that there is not.
      ResultError: a results file of a table cannot be used.
    """

    def replaced(block: re.Match[str]) -> str:
        start, table, scale, _, end = block.groups()
        for name, value, allowed in (("table", table, TABLES), ("scale", scale, SCALES)):
            if value not in allowed:
                raise ValueError(f"{page}: {name} {value}: must be one of {', '.join(allowed)}")
        return f"{start}{render(table, scale, results)}{end}"

    return _BLOCK.sub(replaced, page.read_text(encoding="utf-8"))


def update(page: Path, results: Path) -> None:
    """Write the page with every table as it is rendered now."""
    atomic_write(page, with_tables(page, results))
