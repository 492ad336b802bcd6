"""docs/config.md from the constructors that own the sections of a config: every key, its default, what it means.

    python docs/make_config.py

The same docstrings make the page of `--help`; tests/test_site.py compares the page with the constructors as they are.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lipjax.commands.help import meanings_of
from lipjax.config import Run, defaults
from lipjax.data import DataOptions
from lipjax.models.architectures import ARCHITECTURES
from lipjax.system.files import atomic_write
from lipjax.training.losses import LOSSES
from lipjax.training.optimizers import Optimizer

PAGE = Path(__file__).with_name("config.md")

_HEADER = """# Keys of the config

Written by `python docs/make_config.py` from the constructors that own the sections; edit those. A config file changes
`lipjax.config.default_config()`; a flag `--config.SECTION.KEY=VALUE` changes one key, and in Python so does
`config.SECTION.KEY = value`. How they are used: [use.md](use.md). A key that its owner does not take is refused.
"""

_SECTIONS = {
    "data": "Which images, and what is done to them in training ([own_data.md](own_data.md)).",
    "model": "The network: `config.model.name`, and the arguments of the function of that name, or of "
    "`FILE.py:FUNCTION` ([own_networks.md](own_networks.md)).",
    "loss": "What is minimised: `config.loss.name`, and the fields of the loss of that name. Every ε is an l2 "
    "distance of images, pixels in [0, 1]. What they are worth: [recipes.md](recipes.md).",
    "optimizer": "Any optimiser of optax by its name; keys that are not here go to it.",
    "run": "How long, with what and where.",
}


def owners() -> dict[str, dict[str, Callable[..., Any]]]:
    """{section: {name: the constructor whose arguments are its keys}}; the name is '' where a section has one owner."""
    one: dict[str, Callable[..., Any]] = {"data": DataOptions, "optimizer": Optimizer, "run": Run}
    several: dict[str, dict[str, Any]] = {"model": ARCHITECTURES, "loss": LOSSES}
    return {section: several.get(section) or {"": one[section]} for section in _SECTIONS}


def _shown(default: Any) -> str:
    """A default as one would type it: 36/255, not 0.1411764705882353."""
    in_steps = default * 255 if isinstance(default, float) else 0.5
    return (
        f"{round(in_steps)}/255" if len(repr(default)) > 8 and abs(in_steps - round(in_steps)) < 1e-9 else repr(default)
    )


def first_line(owner: Callable[..., Any]) -> str:
    """What a docstring says first, in one line."""
    return (inspect.getdoc(owner) or "").split("\n\n")[0].replace("\n", " ")


def _cell(text: str) -> str:
    """Text of a cell of a table: what would be a sign of Markdown, outside of `code`, is escaped."""
    parts = text.replace("|", r"\|").split("`")
    parts[::2] = [
        part.replace("*", r"\*").replace("_", r"\_").replace("<", r"\<").replace("$", r"\$") for part in parts[::2]
    ]
    return "`".join(parts)


def _table(owner: Callable[..., Any]) -> list[str]:
    meanings = meanings_of(owner)
    rows = [f"| `{key}` | `{_shown(default)}` | {_cell(meanings[key])} |" for key, default in defaults(owner).items()]
    return ["| key | default | |", "|---|---|---|", *rows, ""] if rows else ["No keys.", ""]


def page() -> str:
    """The text of docs/config.md."""
    lines = [_HEADER]
    for section, named in owners().items():
        lines += [f"## {section}", "", _SECTIONS[section], ""]
        for name, owner in named.items():
            if name:
                lines += [f"### {name}", "", _cell(first_line(owner)), ""]
            lines += _table(owner)
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    atomic_write(PAGE, page())
