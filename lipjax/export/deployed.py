"""A network as it is exported: folded, in one precision, with what is proven of it in the arithmetic of its format."""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lipjax.checkpoint import sha256
from lipjax.evaluation.split import chain_of_proof
from lipjax.layers.layer import own_of
from lipjax.layers.plain import Plain
from lipjax.layers.rounding import COARSEST
from lipjax.models import Proven, fold, prove
from lipjax.ops.arithmetic import in_float64
from lipjax.ops.blocked import any_order
from lipjax.workdir import Trained

FORMAT = "lipjax export 1"
DTYPES = ("float32", "float64")
RADIUS = (
    "No image of the same shape with pixels in [0, 1] within the l2 distance radius of an image, in pixels, is given "
    "another class by this program. radius = max(0, (r − 2 E) / L), l the class of the largest logit, E = "
    "rounding.error_bound, L = lipschitz_bound; of an image with a pixel that is not in [0, 1] it is 0"
)
_SUMS = {
    False: "in blocks, as the program spells out; within a block in any order",
    True: "in any order, each node of the network computed by itself",
}
NOT_COVERED = (
    "arithmetic that is not IEEE 754 in the dtype of the network, such as TF32 or bfloat16; convolutions by Winograd's "
    "algorithm or by FFT; nodes fused or constants folded by an optimiser of the runtime: switch these off"
)


@dataclasses.dataclass(frozen=True)
class Deployed:
    """What is written.

    Attributes:
      proven: of the network as it is exported; its roundings are those of the format.
      data: of what it was trained on: shape of images, names of classes, …
      dtype: of its constants, its images and its arithmetic.
      sums_in_any_order: whether the proof holds for any order of summation, or for the program's own blocks.
      variables: of the folded network, in that dtype.
    """

    proven: Proven
    trained: Trained
    dtype: str
    sums_in_any_order: bool
    variables: Mapping[str, Any]
    parts: tuple[Any, Any]

    @functools.cached_property
    def layers(self) -> tuple[Plain, Plain]:
        """(backbone, head) as plain layers, constants in the dtype."""
        backbone, head = self.parts
        with in_float64():
            own = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), self.variables)
            written = backbone.plain(own, self.proven.image_shape), head.plain(own_of(own, "head"))
        return tuple(in_dtype(layers, self.dtype) for layers in written)  # type: ignore[return-value]

    @functools.cached_property
    def error_bound(self) -> float:
        """E of all images; ValueError where a layer or the head states no rounding."""
        error = self.proven.rounding
        if error is None or not np.isfinite(error):
            kinds = ", ".join(self.proven.unproven) or "the network"
            raise ValueError(
                f"of {kinds} no rounding in {self.dtype} is proven, so that nothing can be certified of it"
            )
        return error

    @functools.cached_property
    def logit_slack(self) -> float:
        """What rounding can do to the difference of two logits at the two ends, and to that difference itself."""
        proven, diagonal = self.proven, float(np.sqrt(np.prod(self.proven.image_shape)))
        grey = np.full((1, *proven.image_shape), 0.5, self.dtype)
        reach = float(np.linalg.norm(np.asarray(proven.features(grey), np.float64)))
        reach += proven.lipschitz_bound * (diagonal / 2 + 1) + 2 * self.error_bound
        own = own_of(self.variables, "head")
        slack = proven.head.rounding(own, np.full(1, reach))
        assert slack is not None  # `error_bound` has refused such a head
        return 3 * float(slack[0]) * (COARSEST if self.dtype == "float32" else 1.0)

    @functools.cached_property
    def head_constants(self) -> dict[str, Any]:
        """What the head needs for a radius, see `Head.constants`."""
        file = self.trained.workdir / "checkpoints" / "curvature.npz"
        return self.proven.head.constants(own_of(self.variables, "head"), file)

    def metadata(self) -> dict[str, Any]:
        """What goes into the file, beside the network: the constants of its certificate, in words what they mean."""
        proven, data = self.proven, self.trained.data
        of_head = {name: value.tolist() for name, value in self.head_constants.items()}
        rounding: dict[str, Any] = {"error_bound": self.error_bound, "logit_slack": self.logit_slack}
        rounding |= {"sums": _SUMS[self.sums_in_any_order], "not_covered": NOT_COVERED}
        return {
            "format": FORMAT,
            "lipjax": metadata.version("lipjax"),
            "params_sha256": sha256(self.trained.variables["params"]),
            "image_shape": list(proven.image_shape),
            "images": f"(N, {', '.join(map(str, proven.image_shape))}), pixels in [0, 1], {self.dtype}",
            "class_names": list(data.class_names),
            "dtype": self.dtype,
            "outputs": list(self.outputs),
            "lipschitz_bound": proven.lipschitz_bound,
            "rounding": rounding,
            "radius": f"{RADIUS}; r = {proven.head.radius}",
            "head": {"kind": proven.head.kind, **of_head},
            "chain_of_proof": chain_of_proof(proven),
        }

    @property
    def has_radius(self) -> bool:
        """Whether the file computes radii too: the head's certificate has a closed form."""
        return "row_distances" in self.head_constants

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what the program gives, in order."""
        return ("features", "logits", *(("class", "radius") if self.has_radius else ()))

    def radius_constants(self) -> dict[str, np.ndarray]:
        """Of the closed form, rounded to the safe side: distances (K, K), far (K, K), slack, twice E, 1 / L, less."""
        distances = _up(self.head_constants["row_distances"], self.dtype)
        np.fill_diagonal(distances, 1.0)
        far = np.diag(np.full(len(distances), 1e30)).astype(self.dtype)
        eps = float(np.finfo(self.dtype).eps)
        inverse = np.asarray(1 / self.proven.lipschitz_bound * (1 - 4 * eps), self.dtype)
        of_rounding = {"slack": _up(self.logit_slack, self.dtype), "error": _up(2 * self.error_bound, self.dtype)}
        less = np.asarray(1 - 8 * eps, self.dtype)
        return {"distances": distances, "far": far, **of_rounding, "inverse": inverse, "less": less}


def radius_of(images, logits, o, constants: Mapping[str, np.ndarray]):
    """(class, radius) of images (N, H, W, C) with logits (N, K), by the operations of a format.

    Each quotient and difference is made smaller by 8 units than its rounding may have made it larger.  Of pixels that
    are not in [0, 1], or no numbers, E is not proven, and the radius is 0.
    """
    c = {name: o.constant(value) for name, value in constants.items()}
    place = o.largest(logits)
    zero = o.constant(0.0)
    largest = o.reshape(zero - o.least(zero - logits), (1,))
    margins = (largest - logits) * c["less"] + o.rows(c["far"], place)
    distances = (margins - c["slack"]) / o.rows(c["distances"], place) * c["less"]
    radius = (o.least(distances) - c["error"]) * c["inverse"]
    outside = o.abs(images - o.minimum(o.maximum(images, zero), o.constant(1.0)))
    outside = o.sum(o.reshape(outside, (int(np.prod(images.shape[1:])),)), (1,))
    return place, o.where(o.at_least(zero, outside), o.maximum(radius, zero), zero)


def deployed(trained: Trained, dtype: str, sums_in_any_order: bool) -> Deployed:
    """The network of a workdir folded in float64, its constants rounded to a dtype, and the proof of just that.

    Raises:
      ValueError: a layer or head of which nothing is proven, in that arithmetic.
    """
    with in_float64():
        given = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), dict(trained.variables))
        model, folded = fold(trained.model, given)
        variables = jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype), folded)
    curvature_file = trained.workdir / "checkpoints" / "curvature.npz"
    with any_order() if sums_in_any_order else contextlib.nullcontext():
        proven = prove(model, variables, None, curvature_file, dtype)
    found = Deployed(proven, trained, dtype, sums_in_any_order, variables, model.parts())
    assert found.error_bound >= 0
    return found


def in_dtype(value: Any, dtype: str) -> Any:
    """Plain layers with their arrays in a dtype."""
    if isinstance(value, dict):
        return {key: in_dtype(entry, dtype) for key, entry in value.items()}
    if isinstance(value, list):
        return [in_dtype(entry, dtype) for entry in value]
    return value.astype(dtype) if isinstance(value, np.ndarray) else value


def _up(values, dtype: str) -> np.ndarray:
    """Rounded up to a dtype."""
    rounded = np.asarray(values, np.float64).astype(dtype)
    return np.where(rounded < values, np.nextafter(rounded, np.asarray(np.inf, dtype)), rounded)
