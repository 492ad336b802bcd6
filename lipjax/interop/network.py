"""What every reader does alike: it takes arrays by name and shape, and puts layers with their variables in a row."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lipjax.interop.claim import Claim, Claimed, by_construction
from lipjax.layers import Layer, Sequential
from lipjax.layers.last_layer_normalization import LastLayerNormalization
from lipjax.models.network import Network

# The mean pixels that programs subtract and keep in no file, by the number of classes: CIFAR-10, CIFAR-100, Tiny.
MEANS = {10: (0.49139968, 0.48215841, 0.44653091), 100: (0.5071, 0.4865, 0.4409), 200: (0.485, 0.456, 0.406)}


class Foreign(NamedTuple):
    """A network of another program: the model, its variables in float64, and what the program says of it."""

    model: Network
    variables: dict[str, Any]
    claim: Claim


# State → network; its keywords are the settings, which the file keeps beside the state or the caller says.
Reader = Callable[..., Foreign]
Pixels = float | tuple[float, ...]  # a number, or one for each channel


class State:
    """The arrays of a state dict, each to be taken by its name and shape, and none to be left.

    Raises:
      ValueError: an entry that is not finite, by its name.
    """

    def __init__(self, program: str, arrays: Mapping[str, np.ndarray]):
        self.program, self._arrays, self._taken = program, {}, set[str]()
        for name, value in arrays.items():
            array = np.asarray(value)
            if array.dtype.kind not in "fiub" or array.itemsize > 8:
                raise ValueError(
                    f"{program}: {name!r} must be an array of real numbers of 64 bits at most, got {array.dtype}"
                )
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(f"{program}: {name!r} has entries that are not finite")
            self._arrays[name] = array

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def names(self, prefix: str = "") -> list[str]:
        """Those that start so, in the order of the file."""
        return [name for name in self._arrays if name.startswith(prefix)]

    def take(self, name: str, *shape: int | None) -> np.ndarray:
        """The array in float64; ValueError where it is missing or has another shape (None: any length there)."""
        array = self.peek(name)
        fits = array.ndim == len(shape) and all(want in (None, n) for want, n in zip(shape, array.shape, strict=True))
        if not fits:
            wanted = ", ".join("any" if want is None else str(want) for want in shape)
            raise ValueError(f"{self.program}: {name!r} must have the shape ({wanted}), got {array.shape}")
        self._taken.add(name)
        return array.astype(np.float64)

    def peek(self, name: str) -> np.ndarray:
        """The array as it is, which is still to be taken; ValueError where it is missing."""
        if name not in self._arrays:
            raise ValueError(f"{self.program}: {name!r} is missing; there are {_some(sorted(self._arrays))}")
        return self._arrays[name]

    def sizes(self, name: str, dimensions: int) -> tuple[int, ...]:
        """The shape of an array that is still to be taken; ValueError where it has not so many dimensions."""
        shape = self.peek(name).shape
        if len(shape) != dimensions or not all(shape):
            raise ValueError(f"{self.program}: {name!r} must have {dimensions} dimensions, none empty, got {shape}")
        return shape

    def finish(self) -> None:
        """ValueError, naming what was not taken."""
        left = [name for name in self._arrays if name not in self._taken]
        if left:
            raise ValueError(f"{self.program}: names that are not understood: {_some(left)}")


def _some(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:6]))
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown or "none"


class Row:
    """Layers one after the other, with their variables and what the program claims of each."""

    def __init__(self) -> None:
        self.layers: list[tuple[str, Layer]] = []
        self.variables: dict[str, dict[str, Any]] = {"params": {}, "spectral": {}}
        self.claimed: list[Claimed] = []

    def add(
        self,
        name: str,
        layer: Layer,
        params: Mapping[str, np.ndarray] | None = None,
        spectral: Mapping[str, np.ndarray] | None = None,
        claimed: Claimed | None = None,
    ) -> None:
        """One more layer.  What the program claims of it: `claimed`, else 1."""
        self.layers.append((name, layer))
        if params is not None:
            self.variables["params"][name] = dict(params)
        if spectral is not None:
            self.variables["spectral"][name] = dict(spectral)
        self.claimed.append((claimed or by_construction())._replace(layer=name))

    def network(self, weight: np.ndarray, bias: np.ndarray, image_shape: tuple[int, int, int], **claim: Any) -> Foreign:
        """With the head of unit rows; `claim`: how the program certifies, see `Claim`."""
        self.variables["params"]["head"] = {"weight": weight, "bias": bias}
        head = LastLayerNormalization(len(weight), parent=None)
        model = Network(Sequential(tuple(self.layers), parent=None), head, image_shape)
        variables = {collection: tree for collection, tree in self.variables.items() if tree}
        return Foreign(model, variables, Claim(tuple(self.claimed), **claim))


def orthogonalised_rows(matrix: np.ndarray, ridge: float = 1e-3) -> np.ndarray:
    """L⁻¹ V with L Lᵀ = V Vᵀ + δ I, δ = ridge · mean(diag V Vᵀ): nearly orthonormal rows (LiResNet)."""
    import scipy.linalg

    gram = matrix @ matrix.T
    gram[np.diag_indices_from(gram)] += ridge * np.mean(np.diag(gram))
    return scipy.linalg.solve_triangular(np.linalg.cholesky(gram), matrix, lower=True)


def hwio(kernel: np.ndarray) -> np.ndarray:
    """A kernel (C_out, C_in, k, k) of PyTorch as (k, k, C_in, C_out)."""
    return kernel.transpose(2, 3, 1, 0)


def from_channels_first(size: tuple[int, int], channels: int) -> np.ndarray:
    """Where the entries of an image flattened here, (row, column, c), stand where (c, row, column) is flattened."""
    places = np.arange(channels * size[0] * size[1]).reshape(channels, *size)
    return places.transpose(1, 2, 0).ravel()


def mean_of(program: str, mean: Pixels | None, num_classes: int) -> tuple[float, ...]:
    """What the program subtracts of pixels: as given, or of the dataset with so many classes."""
    if mean is None and num_classes not in MEANS:
        raise ValueError(
            f"{program}: the mean of the pixels is not in the file, and {num_classes} classes are those of none of its "
            "datasets; give mean=…"
        )
    return tuple(np.ravel(MEANS[num_classes] if mean is None else mean).tolist())
