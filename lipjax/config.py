"""The configuration: five sections, each handed whole to its owner, whose constructor says what it may hold.

A config file has `get_config()`, which changes `default_config()`.  Training writes config.json with every value;
certification reads that file, so no Python of a config is executed to load a trained network.

  section     owner                                      its names
  data        data.DataOptions                           SOURCES, or any of tensorflow-datasets
  model       models.ARCHITECTURES[name]                 ARCHITECTURES, or FILE.py:FUNCTION
  loss        training.losses.LOSSES[name]               LOSSES
  optimizer   training.optimizers.Optimizer              those of optax
  run         Run, here
"""

import dataclasses
import inspect
import math
import numbers
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ml_collections import ConfigDict

SECTIONS = ("data", "model", "loss", "optimizer", "run")

Allowed = tuple[str, Callable[[Any], bool]]  # what a value must be, in words, and whether it is


def default_config() -> ConfigDict:
    """The paper's recipe (sections 5 and 7) for CIFAR-10, LipConvnet-5 with max pooling and LLN.

    It holds the names alone: every other key has the default of its owner.  The layers are not the paper's
    (docs/orthogonal.md); config.model.polynomial='taylor' makes them so.
    """
    config = ConfigDict({section: {} for section in SECTIONS})
    config.data.name = "cifar10"
    config.model.name = "lipconvnet"
    config.loss.name = "cross_entropy"
    config.optimizer.name = "sgd"
    config.optimizer.schedule = {"name": "drops"}
    return config


def renamed(config: ConfigDict, original: ConfigDict, overridden: Collection[str]) -> ConfigDict:
    """The config without the options of a model, loss or schedule whose name was overridden by that of another one.

    Args:
      config: with the overrides; original: as the config file has it.
      overridden: the keys, such as 'model.name'.
    """
    for path in ("model", "loss", "optimizer.schedule"):
        section, before = (_section(each, path) for each in (config, original))
        if path not in overridden and section.get("name") != before.get("name"):
            for key in [key for key in section if f"{path}.{key}" not in overridden]:
                del section[key]
    return config


def _section(config: ConfigDict, path: str) -> ConfigDict:
    """The section of a dotted path, an empty one where there is none."""
    section: Any = config
    for name in path.split("."):
        section = section.get(name) if isinstance(section, ConfigDict) else None
    return section if isinstance(section, ConfigDict) else ConfigDict()


def build(section: str, owner: Callable[..., Any], given: Mapping[str, Any], *fixed: Any) -> Any:
    """owner(*fixed, **given), with errors that name config.SECTION.KEY.

    Raises:
      ValueError: a key that the owner does not take; what the owner says of a value ("KEY=VALUE: must be …").
    """
    signature = inspect.signature(owner)
    takes = list(signature.parameters.values())[len(fixed) :]
    names = [parameter.name for parameter in takes if parameter.kind is not parameter.VAR_KEYWORD]
    if len(names) == len(takes):
        for key in given:
            if key not in names:
                raise ValueError(f"config.{section}.{key}={given[key]!r}: unknown key; allowed: {', '.join(names)}")
    try:
        return owner(*fixed, **given)
    except (TypeError, ValueError) as error:
        of_key = re.match(r"[\w.]+(=|: )", str(error)) and not str(error).startswith("config.")
        raise ValueError(f"config.{section}.{error}" if of_key else f"config.{section}: {error}") from error


def defaults(owner: Callable[..., Any]) -> dict[str, Any]:
    """The keys of an owner that have defaults, with these."""
    parameters = inspect.signature(owner).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def named(section: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """(known[name], the other keys) of a section; ValueError unless its name is one of the known ones."""
    rest = dict(given)
    name = rest.pop("name", None)
    if name not in known:
        raise ValueError(f"config.{section}.name={name!r}: must be one of {tuple(known)}")
    return known[name], rest


def check(values: Mapping[str, Any], **allowed: Allowed) -> None:
    """Raise ValueError, naming the key, its value and what is allowed, unless each value is what it must be."""
    for key, (text, holds) in allowed.items():
        if not holds(values[key]):
            raise ValueError(f"{key}={values[key]!r}: must be {text}")


def one_of(*allowed: str) -> Allowed:
    """One of some words."""
    return f"one of {allowed}", lambda value: value in allowed


def text(called: str = "a text") -> Allowed:
    """Any text but the empty one."""
    return called, lambda value: isinstance(value, str) and value != ""


def flag() -> Allowed:
    """True or False."""
    return "True or False", lambda value: isinstance(value, bool)


def integer(low: int, high: float = math.inf) -> Allowed:
    """An integer of a range."""
    text = f"an integer >= {low}" if high == math.inf else f"an integer from {low} to {high}"
    return text, lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def even(low: int = 2) -> Allowed:
    """An even integer."""
    return f"an even number >= {low}", lambda value: integer(low)[1](value) and value % 2 == 0


def odd() -> Allowed:
    """An odd integer, such as the side of a kernel."""
    return "an odd number >= 1", lambda value: integer(1)[1](value) and value % 2 == 1


def number(low: float, high: float = math.inf) -> Allowed:
    """A finite number of a range."""
    text = f"a number >= {low}" if high == math.inf else f"a number in [{low}, {high}]"
    return text, lambda value: is_number(value) and low <= value <= high


def positive() -> Allowed:
    """A finite number above 0."""
    return "a positive number", lambda value: is_number(value) and value > 0


def or_none(allowed: Allowed) -> Allowed:
    """That, or None."""
    text, holds = allowed
    return f"{text}, or None", lambda value: value is None or holds(value)


def is_number(value: Any) -> bool:
    """Whether it is a finite real number, and no flag."""
    try:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def parse_radii(text: Any) -> dict[str, float]:
    """'36/255,0.5' → {'36/255': 36/255, '0.5': 0.5}; ValueError names the part that is not a positive number."""
    radii = {}
    for part in ",".join(map(str, text)).split(",") if isinstance(text, tuple | list) else str(text).split(","):
        try:
            numerator, _, denominator = part.strip().partition("/")
            radius = float(numerator) / float(denominator or 1)
        except (ValueError, ZeroDivisionError):
            radius = math.nan
        if not (math.isfinite(radius) and radius > 0):
            raise ValueError(f"radii={text!r}: {part!r} must be a positive number or a fraction such as 36/255")
        radii[part.strip()] = radius
    return radii


@dataclasses.dataclass(frozen=True)
class Run:
    """How long, with what and where a training runs.

    Attributes:
      epochs: passes over the training images.
      batch_size: images a step.
      seed: of all randomness, and of which images are held out.
      start_from: a released network, by name, or a workdir, whose parameters are taken where names and shapes are the
        same, and trained on; None: all from the seed.
      radii: at which certified accuracy is reported: l2, pixels in [0, 1], such as '36/255,0.5'.
      eval_every: epochs between evaluations on held-out images.
      checkpoint_every: epochs between checkpoints.
      checkpoint_steps: steps between checkpoints, too; None: no matter how many.
      checkpoint_seconds: seconds between checkpoints, too.
      keep_checkpoints: the newest so many stay on disk, and the best.
      shard_head: with several devices, split the hidden units of the curvature head over them.
      distributed: several processes, see docs/scale.md.
      check_memory: refuse a training that needs more memory than is free.
      tensorboard: also write TensorBoard files.
      profile: trace some training steps.
    """

    epochs: int = 200
    batch_size: int = 128
    seed: int = 0
    start_from: str | None = None
    radii: Any = "36/255,72/255,108/255"
    eval_every: int = 1
    checkpoint_every: int = 1
    checkpoint_steps: int | None = None
    checkpoint_seconds: float = 600.0
    keep_checkpoints: int = 2
    shard_head: bool = False
    distributed: bool = False
    check_memory: bool = True
    tensorboard: bool = False
    profile: bool = False

    def __post_init__(self):
        counts = dict.fromkeys(
            ("epochs", "batch_size", "eval_every", "checkpoint_every", "keep_checkpoints"), integer(1)
        )
        flags = dict.fromkeys(("shard_head", "distributed", "check_memory", "tensorboard", "profile"), flag())
        check(vars(self), **counts, **flags, seed=integer(0, 2**31 - 1), checkpoint_steps=or_none(integer(1)))
        check(vars(self), checkpoint_seconds=positive(), start_from=or_none(text()))
        parse_radii(self.radii)
