"""Networks by name: those of the library, and anyone's from a file (docs/own_networks.md)."""

import hashlib
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lipjax.config import build, defaults
from lipjax.models.bronet import bronet
from lipjax.models.convnet import convnet
from lipjax.models.lipconvnet import lip_convnet
from lipjax.models.lipnext import lipnext
from lipjax.models.liresnet import liresnet
from lipjax.models.network import Classifier, Network

# (image_shape, num_classes, **options) → network.  The options, with their defaults, are the keys of config.model.
Architecture = Callable[..., Classifier]

ARCHITECTURES: dict[str, Architecture] = {
    "lipconvnet": lip_convnet,
    "liresnet": liresnet,
    "lipnext": lipnext,
    "bronet": bronet,
    "convnet": convnet,
}


def file_of(name: Any) -> Path | None:
    """The file of 'FILE.py:FUNCTION', None for other names."""
    path, separator, function = str(name).rpartition(":")
    return Path(path) if separator and path.endswith(".py") and function.isidentifier() else None


def model_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of config.model: those given, the defaults of the others, and the SHA-256 of a file.

    A file is executed.

    Raises:
      ValueError: a name that is neither known nor FILE.py:FUNCTION; a file that is missing, raises, has no such
        function, or is not the one whose SHA-256 was recorded.
    """
    owner, digest = _architecture(given)
    return {**defaults(owner), **given} | ({} if digest is None else {"sha256": digest})


def build_model(given: Mapping[str, Any], image_shape: tuple[int, ...], num_classes: int) -> Classifier:
    """The network of config.model for images (H, W, C) and so many classes.

    Raises:
      ValueError: see `model_options`; options that the architecture refuses; what is no `Classifier` of such images and
        classes.
    """
    (owner, _), name = _architecture(given), given["name"]
    options = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items() if key not in ("name", "sha256")}
    model = build("model", owner, options, tuple(image_shape), num_classes)
    if not isinstance(model, Classifier):
        raise ValueError(f"config.model.name={name!r}: must return a lipjax Network, got {type(model).__name__}")
    if model.num_outputs() != num_classes:
        raise ValueError(f"config.model.name={name!r}: has {model.num_outputs()} classes, the data {num_classes}")
    if model.image_shape is None:
        model = Network(*model.parts(), image_shape=tuple(image_shape))  # type: ignore[arg-type]
    if model.shape_of_images() != tuple(image_shape):
        raise ValueError(f"config.model.name={name!r}: is for images {model.image_shape}, the data has {image_shape}")
    return model


def _architecture(given: Mapping[str, Any]) -> tuple[Architecture, str | None]:
    """(the function, the SHA-256 of the bytes that it was executed from, None for one of the library)."""
    name = given.get("name")
    if name in ARCHITECTURES:
        return ARCHITECTURES[name], None
    path = file_of(name)
    if path is None:
        raise ValueError(f"config.model.name={name!r}: must be one of {tuple(ARCHITECTURES)}, or FILE.py:FUNCTION")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ValueError(f"config.model.name: cannot read {path} ({error.strerror})") from error
    recorded, found = given.get("sha256"), hashlib.sha256(source).hexdigest()
    if recorded not in (None, found):
        raise ValueError(f"config.model.name={name!r}: the file has changed; its SHA-256 was {recorded}, is {found}")
    function = getattr(_executed(path, source, found), str(name).rpartition(":")[2], None)
    if not callable(function):
        raise ValueError(f"config.model.name={name!r}: the file has no such function")
    return function, found


def _executed(path: Path, source: bytes, digest: str) -> types.ModuleType:
    """The module of these very bytes, executed once: its classes stay the same from call to call."""
    name = f"lipjax_file_{digest}"
    if name not in sys.modules:
        module = types.ModuleType(name)
        module.__file__ = str(path)
        sys.modules[name] = module  # before it runs, as an import does: dataclasses look their module up
        try:
            exec(compile(source, path, "exec"), vars(module))
        except BaseException as error:
            del sys.modules[name]
            if not isinstance(error, Exception):
                raise
            raise ValueError(f"config.model.name: {path} raised {type(error).__name__}: {error}") from error
    return sys.modules[name]
