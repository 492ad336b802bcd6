"""State dicts of PyTorch files (.pth, .pt) as arrays, without PyTorch and without executing what a pickle asks for.

A pickle is a program.  This one may make dictionaries, lists, tuples, numbers and strings, `OrderedDict`s and tensors,
and nothing else: every other name that it asks for is refused, by that name, before anything of it is called.
"""

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_STORAGES = {
    **{"DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "bfloat16"},
    **{"LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1"},
    "BoolStorage": "?",
}
_MAGIC = 0x1950A86A20F9469CFC6C  # of files before PyTorch 1.6, which are pickles one after the other
_DEEPEST = 64  # dimensions of a tensor


class _Kind(NamedTuple):
    """A class of storages, by the dtype of its entries."""

    dtype: str


class _Tensor(NamedTuple):
    """A tensor as the pickle describes it; its storage is read once all of the pickle is."""

    storage: "_Storage"
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Storage(NamedTuple):
    key: str
    dtype: str


class _Made(NamedTuple):
    """What a pickle may call: a tuple, of which it can change nothing, as it could of a function."""

    run: Callable[..., _Tensor]

    def __call__(self, *arguments: Any) -> _Tensor:
        return self.run(*arguments)


def _tensor(storage, offset, shape, strides, grad=False, hooks=None, metadata=None) -> _Tensor:
    del grad, hooks
    if metadata:  # such as 'neg', of numbers that are to be negated when they are read
        raise ValueError(f"has a tensor of which more is said than its numbers: {metadata!r}")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor, *rest) -> _Tensor:
    del rest
    return tensor


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Made(_tensor),
    ("torch._utils", "_rebuild_tensor"): _Made(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Made(_parameter),
    ("torch", "Size"): tuple,
    **{("torch", name): _Kind(dtype) for name, dtype in _STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise ValueError(f"asks for {module}.{name}, which could execute code; only tensors are read")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        what, kind, key, _, _ = tuple(pid)[:5]
        if what != "storage" or not isinstance(kind, _Kind) or (len(pid) > 5 and pid[5] is not None):
            raise ValueError(f"has a persistent id that is no storage: {pid!r}")
        return _Storage(str(key), kind.dtype)


def read(path: Path) -> Any:
    """What `torch.save` wrote there, with arrays in place of tensors.

    Raises:
      ValueError: a file that is damaged, or asks for more than tensors, by what it asks for.
    """
    try:
        with path.open("rb") as file:
            is_zip = file.read(4) == b"PK\x03\x04"
        return _read_zip(path) if is_zip else _read_old(path)
    except (pickle.UnpicklingError, EOFError, zipfile.BadZipFile, KeyError, IndexError, TypeError, AttributeError) as e:
        raise ValueError(f"{path}: is no file of torch.save that can be read ({type(e).__name__}: {e})") from e
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        if len(set(archive.namelist())) < len(archive.namelist()):
            raise ValueError("has two entries of one name, of which programs may read either")
        names = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if len(names) != 1:
            raise ValueError("has no data.pkl: not a file of torch.save")
        folder = names[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("is of a machine of another byte order")
        tree = _Unpickler(io.BytesIO(archive.read(names[0]))).load()

        def content(key: str) -> bytes:
            about = archive.getinfo(f"{folder}data/{key}")
            if about.compress_type != zipfile.ZIP_STORED:
                raise ValueError("is compressed, which files of torch.save are not")
            return archive.read(about)

        return _filled(tree, content)


def _read_old(path: Path) -> Any:
    with path.open("rb") as file:
        if _Unpickler(file).load() != _MAGIC:
            raise ValueError("is neither a zip file nor a file of an older torch.save")
        for _ in ("the version", "the machine"):
            _Unpickler(file).load()
        tree, keys = _Unpickler(file).load(), _Unpickler(file).load()
        needed = {tensor.storage.key: tensor.storage for tensor in _tensors(tree)}
        contents = {}
        for key in map(str, keys):
            count = int.from_bytes(file.read(8), "little")
            width = 2 if needed[key].dtype == "bfloat16" else np.dtype(needed[key].dtype).itemsize
            contents[key] = file.read(count * width)
        return _filled(tree, contents.__getitem__)


def _tensors(tree: Any):
    if isinstance(tree, _Tensor):
        yield tree
    elif isinstance(tree, dict | list | tuple):
        for entry in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(entry)


def _filled(tree: Any, content: Callable[[str], bytes]) -> Any:
    """The tree with arrays in place of tensors; each storage is read once."""
    storages: dict[str, np.ndarray] = {}

    def filled(entry):
        if isinstance(entry, _Tensor):
            return _array(entry, storages, content)
        if isinstance(entry, dict):
            return {key: filled(value) for key, value in entry.items()}
        if isinstance(entry, list | tuple) and not isinstance(entry, _Kind | _Storage):
            return [filled(value) for value in entry]
        return entry

    return filled(tree)


def _array(tensor: _Tensor, storages: dict[str, np.ndarray], content: Callable[[str], bytes]) -> np.ndarray:
    storage, shape, strides = tensor.storage, tensor.shape, tensor.strides
    if not isinstance(storage, _Storage):
        raise ValueError("has a tensor without a storage")
    if storage.key not in storages:
        raw = np.frombuffer(content(storage.key), "<u2" if storage.dtype == "bfloat16" else storage.dtype)
        if storage.dtype == "bfloat16":
            raw = (raw.astype("<u4") << 16).view("<f4")
        storages[storage.key] = raw
    numbers = (tensor.offset, *shape, *strides)
    is_plain = all(type(number) is int and number >= 0 for number in numbers) and len(shape) == len(strides) < _DEEPEST
    if not is_plain:
        raise ValueError(f"has a tensor of shape {shape}, strides {strides}")
    whole, count = storages[storage.key], math.prod(shape)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if count > len(whole) or (count and last >= len(whole)):
        raise ValueError(f"has a tensor of shape {shape} in a storage of {len(whole)} numbers")
    width = whole.itemsize
    view = np.lib.stride_tricks.as_strided(whole[tensor.offset :], shape, [step * width for step in strides])
    return np.array(view)
