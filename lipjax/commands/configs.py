"""--config and --config.SECTION.KEY: config files by path or, those that ship with the package, by name."""

import ast
import re
import runpy
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lipjax.config import renamed
from lipjax.workdir import sectioned

_OVERRIDE = re.compile(r"--?(no)?config\.([\w.]+)(?:=(.*))?", re.DOTALL)
_WORDS = {"None": None, "true": True, "false": False}


def shipped() -> dict[str, Path]:
    """The config files of the package, by name, such as 'cifar10' and 'paper/cifar10'."""
    folder = Path(str(resources.files("lipjax"))) / "configs"
    paths = sorted(path for path in folder.rglob("*.py") if not path.name.startswith("_"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def found(name: str) -> Path:
    """The file of that path, or else the shipped config of that name; FileNotFoundError names those."""
    known = shipped()
    if Path(name).is_file():
        return Path(name)
    if name not in known:
        raise FileNotFoundError(f"config={name!r}: must be the path of a file, or one of {', '.join(known)}")
    return known[name]


def split_overrides(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """({'SECTION.KEY': text}, the other arguments); a key without a value is true, and with `no` before it false.

    They are not left to config_flags: it takes a value by the type of the one before, so that None and, for whole
    numbers, 1e4 are refused, and it reads sys.argv.
    """
    overrides, others, left = {}, [], list(arguments)
    while left:
        argument = left.pop(0)
        match = _OVERRIDE.fullmatch(argument)
        if match is None:
            others.append(argument)
            continue
        no, key, text = match.groups()
        if text is None and not no and left and not left[0].startswith("-"):
            text = left.pop(0)
        if no and text is not None:
            raise ValueError(f"{argument}: takes no value; write --config.{key}={text}")
        overrides[key] = text if text is not None else "false" if no else "true"
    return overrides, others


def read(name: str, overrides: Mapping[str, str]) -> ConfigDict:
    """The config in sections of NAME, FILE.py or either with :ARGUMENT, as the overrides change it.

    Raises:
      FileNotFoundError, ValueError: no such file, one that raises or has no get_config, an override of no section.
    """
    original, config = _executed(name), _executed(name)
    for key, text in overrides.items():
        _override(config, key, text)
    if all(_is_named(each.get(section)) for each in (original, config) for section in ("model", "loss")):
        config = renamed(config, original, list(overrides))
    return sectioned(config)


def _is_named(section: Any) -> bool:
    return isinstance(section, ConfigDict) and "name" in section


def _executed(name: str) -> ConfigDict:
    name, _, argument = name.partition(":")
    path = found(name)
    try:
        names = runpy.run_path(str(path))
        config = names["get_config"](*[argument] if argument else [])
    except KeyError as error:
        if error.args != ("get_config",):
            raise ValueError(f"config={str(path)!r}: raised KeyError: {error}") from error
        raise ValueError(f"config={str(path)!r}: has no function get_config()") from error
    except Exception as error:  # whatever a file of the user's may raise
        raise ValueError(f"config={str(path)!r}: raised {type(error).__name__}: {error}") from error
    if not isinstance(config, Mapping | ConfigDict):
        raise ValueError(f"config={str(path)!r}: get_config() must return a config, got {config!r}")
    return ConfigDict(config) if isinstance(config, Mapping) else config


def _override(config: ConfigDict, key: str, text: str) -> None:
    """Set a key to a value: a Python literal or, where it is none or the value before is text, the text itself."""
    *sections, last = key.split(".")
    section = config
    with config.unlocked(), config.ignore_type():
        for depth, name in enumerate(sections, 1):
            if section.get(name) is None:
                section[name] = ConfigDict()
            section = section[name]
            if not isinstance(section, ConfigDict):
                raise ValueError(
                    f"config.{key}={text!r}: config.{'.'.join(sections[:depth])}={section!r} is no section"
                )
        try:
            section[last] = _value(text, section.get(last))
        except (TypeError, OverflowError) as error:  # a dict whose keys are no text; an integer beyond all floats
            raise ValueError(f"config.{key}={text!r}: {error}") from error


def _value(text: str, before: Any) -> Any:
    if text in _WORDS or text.lower() in _WORDS:
        return _WORDS[text if text in _WORDS else text.lower()]
    if isinstance(before, str):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
