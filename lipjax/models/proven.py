"""From a network to certified radii.  What is certified is what is proven: the same layers, the same variables."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict

from lipjax.certificates import Certificate
from lipjax.layers import Head, Layer, Proof
from lipjax.layers.head import Certifier
from lipjax.layers.layer import Variables, check_unchanged, own_of, remade
from lipjax.models.network import Classifier, proof_of
from lipjax.system.devices import over_devices, padded_to_devices

BATCH_SIZE = 500


class Proven:
    """A network with its proof, made by `prove`: its layers and a copy of its variables, and nothing else of it.

    Attributes:
      lipschitz_bound: of pixels to features, 1/std included.
      proof: `Proof` of the backbone, a tree; `proof.links()` are those of its layers.
      variables: the copy, read-only.
      apply: (variables, images) → (features, logits), the layers that were proven with any variables; differentiable.
      head: the `Head`.
      image_shape: (H, W, C).
      num_classes: of the head.
    """

    variables: Variables
    head: Head
    image_shape: tuple[int, ...]
    num_classes: int
    proof: Proof
    lipschitz_bound: float
    apply: Callable[[Variables, jax.Array], tuple[jax.Array, jax.Array]]
    _certifier: Certifier
    _outputs: Callable[..., tuple[jax.Array, jax.Array]]
    _features: Callable[..., jax.Array]

    def __init__(self, model: Classifier, variables: Variables, image_shape=None, curvature_file: Path | None = None):
        _check_nobody_listens()
        shape = model.shape_of_images(image_shape)
        check_unchanged(model)
        backbone, head = _remade(model)
        copied = _copied(variables)
        _check_features(backbone, copied, shape)
        proof = proof_of(backbone, copied, shape)
        own = own_of(copied, "head")
        certifier = head.certifier(own, curvature_file)
        run = functools.partial(outputs, (backbone, head))
        vars(self).update(variables=copied, head=head, image_shape=shape, num_classes=head.num_classes, proof=proof)
        vars(self).update(lipschitz_bound=proof.lipschitz, _certifier=certifier, apply=run)
        vars(self).update(_features=jax.jit(backbone.evaluate), _outputs=jax.jit(run))

    def __copy__(self) -> "Proven":
        return self

    def __deepcopy__(self, memo: Any) -> "Proven":
        return self

    def __reduce__(self):
        raise TypeError("a Proven cannot be pickled: keep the network and its variables, and prove them again")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Proven cannot be changed: {name}")

    def certify(self, images, labels, *, float_slack: float = 0.0) -> Certificate:
        """Certified radii of images (N, H, W, C) in [0, 1] with labels (N,), see `certify`."""
        return over_bound(self.certify_head(self.features(images), labels), self.lipschitz_bound, float_slack)

    def predict(self, images) -> tuple[np.ndarray, np.ndarray]:
        """(classes, radii), (N,) each: what the network predicts, and how far from the image that is proven."""
        features = self.features(images)
        with jax.enable_x64(True):
            logits = self.head.evaluate(_in_float64(own_of(self.variables, "head")), jnp.asarray(features, jnp.float64))
        classes = np.argmax(np.asarray(logits), axis=1)
        return classes, over_bound(self.certify_head(features, classes), self.lipschitz_bound).radius

    def features(self, images) -> np.ndarray:
        """g(x), (N, D), for images (N, H, W, C), batch by batch, every product at full precision (no TF32, no bf16).

        Raises:
          ValueError: images that are no float32 or float64 in [0, 1], or of another shape.
        """
        _check_nobody_listens()
        _check_precision(self.variables)
        return _in_batches(self._features, self.variables, checked_images(images, self.image_shape))

    def logits(self, images: jax.Array) -> jax.Array:
        """h(g(x)), (N, num_classes), of images (N, H, W, C) in the precision that they have: differentiable."""
        return self.outputs(images)[1]

    def outputs(self, images: jax.Array, dtype: Any = None) -> tuple[jax.Array, jax.Array]:
        """(features, logits) with the variables cast to a dtype, None: as they are."""
        variables = self.variables
        if dtype is not None:
            variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), variables)
        return self._outputs(variables, images)

    def certify_head(self, features, labels, *, rivals: int | None = None) -> Certificate:
        """The head's certificates at features (N, D), in feature space.

        Args:
          rivals: only so many classes with the largest logits beside the label count: no proof.
        """
        return self._certifier(features, labels, rivals)


def outputs(layers: tuple[Layer, Head], variables: Variables, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(features, logits) by a backbone and a head in evaluation, every product at full precision."""
    _check_nobody_listens()
    backbone, head = layers
    with jax.default_matmul_precision("highest"):
        features = backbone.evaluate(variables, images)
        return features, head.evaluate(own_of(variables, "head"), features)


def penultimate_features(model: Classifier, variables: Variables, images) -> np.ndarray:
    """g(x), (N, D), of a network in training, as `Proven.features` but with no proof."""
    return _in_batches(lambda variables, batch: _features(model, variables, batch), variables, checked_images(images))


@jax.jit(static_argnums=0)
def _features(model, variables, images):
    return model.apply(variables, images, method="features")


def _in_batches(features, variables, images: np.ndarray) -> np.ndarray:
    """features(variables, batch) of all images, every product at full precision (no TF32, no bf16)."""
    if jax.config.read("jax_enable_x64"):
        images = images.astype(np.result_type(images, *jax.tree.leaves(variables.get("params", {}))))
    size = padded_to_devices(min(BATCH_SIZE, max(len(images), 1)))
    batches = [images[start : start + size] for start in range(0, max(len(images), 1), size)]
    padded = [np.concatenate([b, np.zeros((size - len(b), *b.shape[1:]), b.dtype)]) for b in batches]
    with jax.default_matmul_precision("highest"):
        computed = [np.asarray(features(variables, over_devices(batch))) for batch in padded]
    return np.concatenate(computed)[: len(images)]


def over_bound(certificate: Certificate, lipschitz_bound: float, float_slack: float = 0.0) -> Certificate:
    """Certificates of features as those of images, (radius − float_slack) / lipschitz_bound, rounded down."""
    if not 0 <= float_slack < np.inf:
        raise ValueError(f"float_slack={float_slack!r}: must be a finite number >= 0")
    radius, exact = certificate.radius, certificate.exact
    if float_slack:
        radius = np.maximum(np.nextafter(radius - float_slack, -np.inf), 0.0)
        exact = exact & (radius == certificate.radius)
    with np.errstate(divide="ignore", invalid="ignore"):  # a constant backbone has the bound 0
        # One rounding of the division, downwards, keeps the quotient a lower bound.
        divided = np.where(radius > 0, radius / lipschitz_bound, 0.0)
        radius = np.where((divided > 0) & (divided < np.inf), np.nextafter(divided, 0), divided)
        upper = np.where(certificate.upper > 0, certificate.upper / lipschitz_bound, 0.0)
    upper = np.where(upper > 0, np.nextafter(upper, np.inf), upper)
    return dataclasses.replace(certificate, radius=radius, exact=exact, upper=upper)


def prove(model: Classifier, variables: Variables, image_shape=None, curvature_file: Path | None = None) -> Proven:
    """The proof of a network, and the only way to a certificate.

    The layers of `model.parts()` are taken as they stand, the variables are copied, and the bound is that of these
    layers with these variables.  Certification runs these very layers, each by itself, in evaluation, on nothing but
    its input: a method that a subclass or an interceptor changes in `model` is never called.

    Args:
      model: a `LipConvnet`, `Network` or any other `Classifier`.
      variables: {'params': …, 'spectral': …} as its `init` or `tightened` gives them.
      image_shape: (H, W, C); None: that of the network.
      curvature_file: where the costly bounds of a curvature head are kept; one of another head is not used.

    Raises:
      TypeError: a model that is no `Classifier`.
      ValueError: variables of half precision or not finite (named), a layer of which nothing is proven, images of a
        shape that a layer does not take, a method interceptor at work.
    """
    if not isinstance(model, Classifier):
        raise TypeError(
            f"{type(model).__name__} is no lipjax Classifier: make it lipjax.models.Network(backbone, head) of layers "
            "that state their proof"
        )
    return Proven(model, variables, image_shape, curvature_file)


def certify(model: Classifier, variables: Variables, images, labels, *, float_slack: float = 0.0) -> Certificate:
    """Certified radii of images: no l2 change of the pixels smaller than `radius` changes the prediction.

    radius = (head's certificate at the features g(x) − float_slack) / L with a proven bound L of Lip(g), the paper's
    Proposition 1.  Features are computed at full float32 precision (float64 if the images are float64 under
    `jax.enable_x64`), the head and the radii in float64.  For many batches make `prove(…)` once.

    Args:
      model, variables: see `prove`.
      images: (N, H, W, C) float32 or float64 in [0, 1].
      labels: (N,) integers.
      float_slack: an error of the computed features, in l2, that the certificates are to cover.

    Returns:
      A `Certificate` in input space.  `exact` and `upper` are those of the head: upper is the largest radius that any
      certificate through this Lipschitz bound could give.

    Raises:
      TypeError, ValueError: see `prove`; images outside [0, 1], not finite, of another shape or in half precision;
        labels out of range; a float_slack that is negative or not finite.
    """
    images = checked_images(images)
    return prove(model, variables, model.image_shape or images.shape[1:]).certify(
        images, labels, float_slack=float_slack
    )


def checked_images(images, image_shape: tuple[int, ...] | None = None) -> np.ndarray:
    """The images as an array; ValueError unless they are float32 or float64 in [0, 1], (N, H, W, C)."""
    images = np.asarray(images)
    if images.dtype.name not in ("float32", "float64"):
        raise ValueError(f"images: dtype must be float32 or float64 in [0, 1], got {images.dtype}")
    if images.ndim != 4 or (image_shape is not None and images.shape[1:] != image_shape):
        wanted = ("H", "W", "C") if image_shape is None else image_shape
        raise ValueError(f"images: shape must be (N, {', '.join(map(str, wanted))}), got {images.shape}")
    if not (np.isfinite(images).all() and images.min(initial=0.0) >= 0 and images.max(initial=1.0) <= 1):
        raise ValueError(f"images: pixels must lie in [0, 1], got {images.min()} to {images.max()}")
    return images


def _remade(model: Classifier) -> tuple[Layer, Head]:
    """(backbone, head) of a network, made anew from their fields; TypeError unless they are a Layer and a Head."""
    parts = model.parts()
    for part, kind in zip(parts, (Layer, Head), strict=True):
        if not isinstance(part, kind):
            raise TypeError(
                f"{type(model).__name__}: parts must be a lipjax Layer and a Head, got {type(part).__name__}"
            )
    backbone, head = (remade(part.clone(parent=None, name=None)) for part in parts)
    return backbone, head


def _check_features(backbone: Layer, variables: Variables, shape: tuple[int, ...]) -> None:
    """ValueError unless each image gives one row of features."""
    for count in (2, 3):
        image = jax.ShapeDtypeStruct((count, *shape), jnp.float32)
        found = jax.eval_shape(backbone.evaluate, variables, image).shape
        if len(found) != 2 or found[0] != count:
            raise ValueError(f"the backbone must end in features (N, D), got {found} for {count} images; flatten")


def _copied(variables: Variables) -> Variables:
    """Read-only arrays of their own; ValueError for a half-precision or infinite one, by its path."""

    def copied(path, leaf):
        array = np.asarray(leaf)
        if array.dtype not in (np.float32, np.float64):
            raise ValueError(f"variables: {path} must be float32 or float64, got {array.dtype}")
        if not np.isfinite(array).all():
            raise ValueError(f"variables: {path} has entries that are not finite")
        native = array.astype(array.dtype.name)
        return np.frombuffer(native.tobytes(), native.dtype).reshape(native.shape)  # bytes are never writeable

    def of_tree(path, tree):
        if hasattr(tree, "items"):
            return {name: of_tree(f"{path}/{name}", subtree) for name, subtree in tree.items()}
        return copied(path, tree)

    copy: Variables = FrozenDict({name: of_tree(name, tree) for name, tree in variables.items()})
    _check_precision(copy)
    return copy


def _check_precision(variables: Variables) -> None:
    """ValueError for float64 variables that jax would cast to float32: what ran would not be what was proven."""
    if not jax.config.read("jax_enable_x64") and any(v.dtype == np.float64 for v in jax.tree.leaves(variables)):
        raise ValueError("variables: are float64: prove and certify under jax.enable_x64(True), or cast them first")


def _check_nobody_listens() -> None:
    """ValueError under `nn.intercept_methods`, which may change what layers compute."""
    if list(nn.module._global_interceptor_stack):
        raise ValueError("a Flax method interceptor is at work (nn.intercept_methods): leave it to prove and certify")


def _in_float64(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


def certified_accuracy(certificate: Certificate, radius: float) -> float:
    """Fraction of inputs that are predicted right with a certified radius strictly above `radius`."""
    return float(np.mean(certificate.radius > radius))
