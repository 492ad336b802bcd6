"""The configuration: every key with its default and what it may be, checked in one place.

A config file has `get_config()`, which changes the defaults of `default_config()`.  Training writes the result to
config.json; certification reads that file, so no Python of a config is ever executed to load a trained network.
"""

import json
import math
import numbers
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

from lipjax import ops
from lipjax.layers.skew_orthogonal_conv import COMPUTE_DTYPES, held_polynomial
from lipjax.models import lipconvnet as models
from lipjax.models.lipconvnet import LipConvnet
from lipjax.ops.equiripple import DEGREES, NORMS
from lipjax.system.files import atomic_write

CONFIG_FILE = "config.json"


def default_config() -> ConfigDict:
    """The paper's recipe (sections 5 and 7) for CIFAR-10, LipConvnet-5 with max pooling and LLN.

    The layers are not the paper's (docs/orthogonal.md); polynomial='taylor' makes them so.
    """
    config = ConfigDict()

    config.dataset = "cifar10"  # 'digits' (shipped with the package) or a tensorflow-datasets name.
    config.data_dir = config_dict.placeholder(str)  # Where tensorflow-datasets keeps its data; None: its default.
    config.validation_fraction = 0.0  # Of the training images, held out to choose the best checkpoint.
    config.crop_padding = 4  # Random crops after zero-padding by so many pixels.
    config.flip = True  # Random horizontal flips.
    config.mean = config_dict.placeholder(tuple)  # Of pixels in [0, 1], one number a channel; None: models.CIFAR_MEAN.
    config.std = models.CIFAR_STD  # Pixels are divided by it, so Lip(features) is 1/std.

    config.depth = 5  # n of LipConvnet-n: 5, 10, ..., 40.
    config.init_channels = 32  # Channels after the first convolution.
    config.head = "lln"
    config.hidden = 4096  # Hidden units of the curvature head.
    config.pooling = "max"
    config.pool_vertices = 4  # Of each curve of pooling 'polyline'.
    config.activation = "max_min"
    config.polynomial = "equiripple"  # With the norms of the convolutions held; or 'taylor', the paper's.
    config.degree = 4  # Equiripple: convolutions a layer ...
    config.norm = 1.9  # ... and the norm at which each operator is held.
    config.terms = 6  # Taylor: terms of the series in training ...
    config.eval_terms = 15  # ... and in evaluation.
    config.gradient = "fast"  # Kernel gradients: 'fast' (equation 5), 'rank2', or 'exact' (equation 4).

    config.epochs = 200
    config.batch_size = 128
    config.seed = 0
    config.learning_rate = 0.1
    config.momentum = 0.9
    config.weight_decay = 5e-4  # On convolution kernels and the LLN weight only.
    config.clip_norm = config_dict.placeholder(float)  # Of the global gradient; None or 0: no clipping.
    config.attack_radius = 36 / 255  # ρ of equation 7, an input radius; for the curvature head only.
    config.curvature_weight = 0.5  # γ of equation 7; for the curvature head only.
    config.milestones = (0.5, 0.75)  # The learning rate drops by 10 after these fractions of the epochs.
    config.compute_dtype = "float32"  # Of the convolutions in training; or 'bfloat16'.
    config.remat = False  # Less memory, more time: blocks are computed again in the backward pass.
    config.steps_per_dispatch = 1  # Training steps in one program, so that short steps do not wait for Python.
    config.shard_head = False  # With several devices: split the hidden units of the curvature head over them.
    config.eval_every = 1  # Epochs between evaluations on held-out images.
    config.checkpoint_every = 1  # Epochs between checkpoints ...
    config.checkpoint_steps = config_dict.placeholder(int)  # ... and steps, ...
    config.checkpoint_seconds = 600.0  # ... and seconds, if an epoch has more.
    config.keep_checkpoints = 2  # The newest so many stay on disk, and the best.

    config.distributed = False  # Several processes; see docs/scale.md.
    config.tensorboard = False  # Also write TensorBoard files.
    config.profile = False  # Trace some training steps.

    config.radii = "36/255,72/255,108/255"  # At which certified accuracy is reported: l2, pixels in [0, 1].
    return config


def _choice(*allowed: str):
    return f"one of {allowed}", lambda value: value in allowed


def _flag():
    return "True or False", lambda value: isinstance(value, bool)


def _integer(low: int, high: float = math.inf):
    text = f"an integer >= {low}" if high == math.inf else f"an integer from {low} to {high}"
    return text, lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _number(low: float, high: float = math.inf):
    return f"a number in [{low}, {high}]", lambda value: _is_number(value) and low <= value <= high


def _is_number(value) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_sequence(value) -> bool:
    return isinstance(value, tuple | list)


def _radii_hold(value) -> bool:
    try:
        return bool(parse_radii(value))
    except ValueError:
        return False


_ALLOWED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "dataset": ("a name", lambda value: isinstance(value, str) and bool(value)),
    "data_dir": ("a path or None", lambda value: value is None or isinstance(value, str)),
    "validation_fraction": ("a number in [0, 1)", lambda value: _is_number(value) and 0 <= value < 1),
    "crop_padding": _integer(0),
    "flip": _flag(),
    "mean": ("one number per channel, or None", lambda v: v is None or (_is_sequence(v) and all(map(_is_number, v)))),
    "std": ("a positive number", lambda value: _is_number(value) and value > 0),
    "depth": ("a multiple of 5 from 5 to 40", lambda value: isinstance(value, int) and value in range(5, 41, 5)),
    "init_channels": ("an even integer >= 2", lambda value: isinstance(value, int) and value >= 2 and value % 2 == 0),
    "head": _choice(*models.HEADS),
    "hidden": _integer(1),
    "pooling": _choice(*models.POOLINGS),
    "pool_vertices": _integer(3),
    "activation": _choice(*models.ACTIVATIONS),
    "polynomial": _choice("equiripple", "taylor"),
    "degree": _integer(*DEGREES),
    "norm": _number(NORMS[0], 2.9),
    "terms": _integer(2, 30),
    "eval_terms": _integer(2, 30),
    "gradient": _choice(*ops.GRADIENTS),
    "epochs": _integer(1),
    "batch_size": _integer(1),
    "seed": _integer(0, 2**31 - 1),
    "learning_rate": _number(0),
    "momentum": ("a number in [0, 1)", lambda value: _is_number(value) and 0 <= value < 1),
    "weight_decay": _number(0),
    "clip_norm": ("a number >= 0 or None", lambda value: value is None or (_is_number(value) and value >= 0)),
    "attack_radius": _number(0),
    "curvature_weight": _number(0),
    "milestones": (
        "increasing fractions in (0, 1)",
        lambda value: (
            _is_sequence(value)
            and all(_is_number(v) and 0 < v < 1 for v in value)
            and list(value) == sorted(set(value))
        ),
    ),
    "compute_dtype": _choice(*COMPUTE_DTYPES),
    "remat": _flag(),
    "steps_per_dispatch": _integer(1),
    "shard_head": _flag(),
    "eval_every": _integer(1),
    "checkpoint_every": _integer(1),
    "checkpoint_steps": ("an integer >= 1 or None", lambda value: value is None or _integer(1)[1](value)),
    "checkpoint_seconds": ("a positive number", lambda value: _is_number(value) and value > 0),
    "keep_checkpoints": _integer(1),
    "distributed": _flag(),
    "tensorboard": _flag(),
    "profile": _flag(),
    "radii": ("comma-separated positive numbers or fractions such as '36/255,0.5'", _radii_hold),
}


def check_config(config: ConfigDict) -> None:
    """Raise ValueError, naming the key, its value and what is allowed, unless every key is known, present and valid."""
    unknown, missing = sorted(set(config) - set(_ALLOWED)), sorted(set(_ALLOWED) - set(config))
    if unknown:
        raise ValueError(f"config.{unknown[0]}={config[unknown[0]]!r}: unknown key; allowed: {', '.join(_ALLOWED)}")
    if missing:
        raise ValueError(f"config.{missing[0]}: missing; it must be {_ALLOWED[missing[0]][0]}")
    for key, (text, holds) in _ALLOWED.items():
        if not holds(config[key]):
            raise ValueError(f"config.{key}={config[key]!r}: must be {text}")


def parse_radii(text: str) -> dict[str, float]:
    """'36/255,0.5' → {'36/255': 36/255, '0.5': 0.5}; ValueError names the part that is not a positive number."""
    radii = {}
    for part in str(text).split(","):
        try:
            numerator, _, denominator = part.strip().partition("/")
            radius = float(numerator) / float(denominator or 1)
        except (ValueError, ZeroDivisionError):
            radius = math.nan
        if not (math.isfinite(radius) and radius > 0):
            raise ValueError(f"radii={text!r}: {part!r} must be a positive number or a fraction such as 36/255")
        radii[part.strip()] = radius
    return radii


def build_model(config: ConfigDict, image_shape: tuple[int, ...], num_classes: int) -> LipConvnet:
    """The network of a config for images (H, W, C), H = W a power of two >= 4; ValueError where they do not fit."""
    height, _, channels = image_shape
    if config.mean is not None and len(config.mean) != channels:
        raise ValueError(
            f"config.mean={config.mean!r}: {config.dataset!r} has {channels} channels, give so many numbers"
        )
    is_held = config.polynomial == "equiripple"
    return LipConvnet(
        depth=config.depth,
        init_channels=config.init_channels,
        input_size=height,
        in_channels=channels,
        num_classes=num_classes,
        head=config.head,
        hidden=config.hidden,
        pooling=config.pooling,
        pool_vertices=config.pool_vertices,
        activation=config.activation,
        polynomial=held_polynomial(config.degree, config.norm) if is_held else ops.taylor(config.terms),
        eval_polynomial=None if is_held else ops.taylor(config.eval_terms),
        gradient=config.gradient,
        compute_dtype=config.compute_dtype,
        remat=config.remat,
        mean=None if config.mean is None else tuple(config.mean),
        std=config.std,
    )


# Keys that config files of earlier versions lack, with the values at which those versions trained.
_OLDER: dict[str, Any] = {
    "compute_dtype": "float32",
    "remat": False,
    "steps_per_dispatch": 1,
    "shard_head": False,
    "distributed": False,
    "tensorboard": False,
    "profile": False,
    "checkpoint_steps": None,
    "checkpoint_seconds": 600.0,
    "keep_checkpoints": 2,
}


def older_config(config: dict[str, Any]) -> dict[str, Any]:
    """A config as it was written, by this version or an earlier one, with all the keys of this one."""
    return {**_OLDER, **config}


# Keys that a later run in the same workdir may change: where and how it runs, not what is trained.
_MAY_CHANGE = {
    *("data_dir", "distributed", "tensorboard", "profile", "remat", "steps_per_dispatch", "shard_head"),
    *("checkpoint_steps", "checkpoint_seconds", "keep_checkpoints"),
}


def write_config(config: ConfigDict, workdir: Path) -> None:
    """Write config.json on the first run; later runs must have the same config, but for where and how they run.

    Raises:
      ValueError: the workdir holds a run of another config; names each key that differs with both values.
    """
    path = workdir / CONFIG_FILE
    if path.exists():
        old, new = read_config(workdir).to_dict(), json.loads(json.dumps(config.to_dict()))
        differing = [key for key in sorted({*old, *new} - _MAY_CHANGE) if old.get(key) != new.get(key)]
        if differing:
            found = ", ".join(f"{key}: {old.get(key)!r} there, {new.get(key)!r} now" for key in differing)
            raise ValueError(
                f"workdir={str(workdir)!r} holds a run of another config ({found}); choose another workdir"
            )
        return
    atomic_write(path, json.dumps(config.to_dict(), indent=2) + "\n")


def read_config(workdir: Path) -> ConfigDict:
    """The config of a workdir.  Raises FileNotFoundError or ValueError if config.json is missing or damaged."""
    path = workdir / CONFIG_FILE
    if not path.exists():
        raise FileNotFoundError(f"workdir={str(workdir)!r} has no {CONFIG_FILE}: no training has started there")
    try:
        config = ConfigDict(older_config(json.loads(path.read_text())))
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is not a config written by train.py: {error}") from error
    check_config(config)
    return config
