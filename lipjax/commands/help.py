"""The page of --help: the flags of a command, and the sections of a config by the docstrings of their owners."""

import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

from lipjax.config import Run
from lipjax.data import DataOptions
from lipjax.models.architectures import ARCHITECTURES
from lipjax.training.losses import LOSSES
from lipjax.training.optimizers import Optimizer

_WIDTH, _INDENT = 118, 34
_OF_ABSL = ("flagfile", "undefok")
_ENTRY = re.compile(r"  (\w+(?:, \w+)*): (.*)")


def page(about: str, own: flags.FlagValues, config: Mapping[str, Any] | None = None, of: str = "") -> str:
    """The whole page.

    Args:
      about: what the command does; own: its flags.
      config: with all values, None for a command that takes none; of: where these are from.
    """
    lines = [inspect.cleandoc(about), "", "Flags"]
    for flag in (own[name] for name in own if own[name].name == name and name not in _OF_ABSL):
        default = "" if flag.default is None or flag.boolean else f"={flag.default}"
        lines += _entry(f"--{flag.name}{default}", flag.help)
    if config is None:
        return "\n".join(lines)
    lines += ["", f"Config: --config.SECTION.KEY=VALUE of lipjax-train, here with the values of {of}"]
    for section, values in config.items():
        name = str(values.get("name"))
        names = {"model": [*ARCHITECTURES, "FILE.py:FUNCTION"], "loss": list(LOSSES)}.get(section)
        meanings = meanings_of(_owner(section, name)) | ({"name": f"one of {', '.join(names)}."} if names else {})
        lines += ["", f"{section}:"]
        for key in sorted(values, key="name".__ne__):
            lines += _entry(f"{key} = {values[key]!r}", meanings.get(key, f"of {name}."))
    return "\n".join(lines)


def _entry(title: str, meaning: str) -> list[str]:
    text = textwrap.wrap(meaning, _WIDTH - _INDENT)
    if len(title) < _INDENT - 3:
        first, *rest = text or [""]
        return [f"  {title:<{_INDENT - 2}}{first}".rstrip(), *(" " * _INDENT + line for line in rest)]
    return [f"  {title}", *(" " * _INDENT + line for line in text)]


def meanings_of(owner: Callable[..., Any] | None) -> dict[str, str]:
    """{key: what it means} by Args or Attributes in the docstring of an owner, of its bases, of what it returns."""
    returned = inspect.signature(owner).return_annotation if inspect.isfunction(owner) else owner
    found: dict[str, str] = {}
    for kind in reversed(returned.__mro__[:-1]) if inspect.isclass(returned) else ():
        found |= _entries(kind.__doc__)
    return found | _entries(owner.__doc__)


def _entries(docstring: str | None) -> dict[str, str]:
    found: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line in inspect.cleandoc(docstring or "").splitlines():
        if not line.startswith(" "):
            inside = line in ("Args:", "Attributes:") if line else inside
        elif inside and (match := _ENTRY.fullmatch(line)):
            names = match[1].split(", ")
            found |= dict.fromkeys(names, match[2])
        elif inside:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def _owner(section: str, name: str) -> Callable[..., Any] | None:
    owners: dict[str, Any] = {"data": DataOptions, "optimizer": Optimizer, "run": Run}
    owners |= {"model": ARCHITECTURES.get(name), "loss": LOSSES.get(name)}
    return owners.get(section)
