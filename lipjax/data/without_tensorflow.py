"""Let tensorflow-datasets prepare image datasets on a machine that has no TensorFlow.

tensorflow-datasets reads prepared datasets without TensorFlow, but its preparation code still asks
``tensorflow`` for a handful of plain services: opening files (``tf.io.gfile``), writing an array as PNG
(``tf.image.encode_png``), text conversion (``tf.compat.as_text``), the eager-mode flag, and exception classes
named in ``except`` clauses. All its modules share one lazily imported module object,
``tensorflow_datasets.core.utils.lazy_imports_utils.tensorflow``; that object, and never ``sys.modules``, is
given a stand-in here, so no other library can mistake the stand-in for TensorFlow.  TensorFlow itself would be twelve
more packages and a wheel of 270 MB (2.21, for the CPU alone, by ``pip download``) before anyone's first command runs.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import importlib.util
import io
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from PIL import Image
from tensorflow_datasets.core import shuffle
from tensorflow_datasets.core.utils import lazy_imports_utils

# The lazy module caches what it imported in its instance dictionary under this name (a functools.cached_property).
_RESOLVED = "_module"
# The replaced module object is global to the process, so only one thread at a time may prepare a dataset.
_LOCK = threading.RLock()


class NeedsTensorFlow(AttributeError):
    """A dataset's preparation asked the stand-in for something that only TensorFlow has.

    An AttributeError, so that ``hasattr(tf, ...)`` keeps its meaning.
    """


def tensorflow_is_installed() -> bool:
    """Whether ``import tensorflow`` would find TensorFlow; nothing is imported."""
    return "tensorflow" in sys.modules or importlib.util.find_spec("tensorflow") is not None


@contextlib.contextmanager
def without_tensorflow() -> Iterator[list[str]]:
    """Give tensorflow-datasets the stand-in for ``tensorflow`` while the block runs; nothing if TensorFlow is there.

    Yields:
        The list, growing during the block, of the full names (such as ``tensorflow.io.decode_raw``) that were asked
        of the stand-in and that it lacks. tensorflow-datasets wraps exceptions on their way, so the list, rather
        than the type of the exception, tells that TensorFlow was needed.

    Raises:
        NeedsTensorFlow: inside the block, where such a name is asked for.
    """
    missing: list[str] = []
    if tensorflow_is_installed():
        yield missing
        return
    lazy = vars(lazy_imports_utils.tensorflow)
    with _LOCK:
        before = dict(lazy)
        lazy[_RESOLVED] = _stand_in(missing)
        try:
            yield missing
        finally:
            del lazy[_RESOLVED]
            lazy.update(before)


class _Namespace:
    """Named members; any other name is recorded in ``missing`` and refused."""

    def __init__(self, name: str, missing: list[str], **members: Any) -> None:
        self._name, self._missing = name, missing
        vars(self).update(members)

    def __getattr__(self, attribute: str) -> Any:
        name = f"{vars(self)['_name']}.{attribute}"
        if attribute.startswith("__"):  # Python's own questions (copying, pickling), not a use of TensorFlow
            raise AttributeError(name)
        vars(self)["_missing"].append(name)
        raise NeedsTensorFlow(f"{name} is needed, but TensorFlow is not installed")


def _stand_in(missing: list[str]) -> _Namespace:
    def namespace(name: str, **members: Any) -> _Namespace:
        return _Namespace(f"tensorflow.{name}", missing, **members)

    gfile = namespace(
        "io.gfile",
        GFile=_open,
        copy=_copy,
        exists=os.path.exists,
        glob=glob.glob,
        isdir=os.path.isdir,
        listdir=os.listdir,
        remove=os.remove,
    )
    return _Namespace(
        "tensorflow",
        missing,
        compat=namespace("compat", as_text=_as_text),
        errors=namespace("errors", **{name: type(name, (Exception,), {}) for name in _NEVER_RAISED}),
        executing_eagerly=lambda: True,
        image=namespace("image", encode_png=_encode_png),
        io=namespace("io", gfile=gfile),
    )


# Named in except clauses, which Python looks up when any exception, such as a full disk's OSError, passes by.
_NEVER_RAISED = (
    "AbortedError",
    "FailedPreconditionError",
    "InvalidArgumentError",
    "NotFoundError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "UnimplementedError",
)


def _open(name: str | os.PathLike[str], mode: str = "r") -> IO[Any]:
    """``tf.io.gfile.GFile``: text is UTF-8 and, unlike that of open(), keeps its line ends."""
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        return open(name, mode, **text)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    # A split of more than 1 GB (svhn_cropped) is shuffled through 1000 files open at once, and 1024 is a usual limit.
    # tensorflow-datasets raises the limit too, but only on the exception that TensorFlow's files have for this.
    shuffle._increase_open_files_limit()
    return open(name, mode, **text)


def _copy(src: str | os.PathLike[str], dst: str | os.PathLike[str], overwrite: bool = False) -> None:
    if not overwrite and os.path.exists(dst):
        raise FileExistsError(f"{os.fspath(dst)!r} exists and overwrite is False")
    shutil.copyfile(src, dst)


def _as_text(bytes_or_text: bytes | str, encoding: str = "utf-8") -> str:
    return bytes_or_text.decode(encoding) if isinstance(bytes_or_text, bytes) else bytes_or_text


class _Encoded:
    """The one thing that is asked of the eager tensor returned by ``encode_png``."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def numpy(self) -> bytes:
        return self._data


def _encode_png(image: np.ndarray) -> _Encoded:
    """PNG (lossless) bytes of a uint8 image (H, W, C), C = 1..4.

    JPEG is left out on purpose: another encoder than TensorFlow's would silently give other pixels.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or not 1 <= image.shape[-1] <= 4:
        raise ValueError(f"only uint8 images (H, W, 1..4) can be encoded, got {image.dtype} {image.shape}")
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, format="PNG")
    return _Encoded(buffer.getvalue())
