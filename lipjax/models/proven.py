"""From a network to certified radii.  What is certified is what is proven: the same layers, the same variables."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict

from lipjax.certificates import Certificate
from lipjax.certificates.certificate import over_bound
from lipjax.layers import Head, Layer, Proof
from lipjax.layers.head import Certifier
from lipjax.layers.layer import Variables, check_unchanged, own_of, remade
from lipjax.models import pgd
from lipjax.models.network import Classifier, proof_of
from lipjax.models.program import Program, cast, checked_images
from lipjax.ops.arithmetic import arithmetic


class Proven:
    """A network with its proof, made by `prove`: its layers and a copy of its variables, and nothing else of it.

    Attributes:
      lipschitz_bound: of pixels to features, 1/std included.
      rounding: E >= ‖g̃(x) − g(x)‖, the l2 distance of the features that the program computes to those in real
        arithmetic, for all images x with pixels in [0, 1] and all points within an l2 distance of 1 of one; None where
        a layer or the head states no rounding: certificates are then about real arithmetic, and say so.
      proof: `Proof` of the backbone, a tree; `proof.links()` are those of its layers.
      precision: 'float64' or 'float32', of the program that certifies.
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
    precision: str
    lipschitz_bound: float
    apply: Callable[[Variables, jax.Array], tuple[jax.Array, jax.Array]]
    _cast: Variables
    _certifier: Certifier
    _outputs: Any  # compiled: (variables, images) → (features, logits)
    _program: Program
    _unproven: list[str]

    def __init__(
        self,
        model: Classifier,
        variables: Variables,
        image_shape=None,
        curvature_file: Path | None = None,
        precision: str = "float64",
    ):
        check_nobody_listens()
        shape = model.shape_of_images(image_shape)
        check_unchanged(model)
        backbone, head = _remade(model)
        copied = copied_variables(variables)
        own = cast(copied, precision)
        _check_features(backbone, copied, shape)
        proof = proof_of(backbone, own, shape)
        program = Program(backbone, own, proof, precision)
        certifier = head.certifier(own_of(own, "head"), curvature_file)
        unproven = list(program.unproven)
        if not head.states_rounding(own_of(own, "head")):
            unproven.append(head.kind or type(head).__name__)
        run = functools.partial(outputs, (backbone, head))
        vars(self).update(variables=copied, head=head, image_shape=shape, num_classes=head.num_classes, proof=proof)
        vars(self).update(lipschitz_bound=proof.lipschitz, _certifier=certifier, apply=run, precision=precision)
        vars(self).update(_cast=own, _program=program, _unproven=unproven, _outputs=jax.jit(run))

    def __copy__(self) -> "Proven":
        return self

    def __deepcopy__(self, memo: Any) -> "Proven":
        return self

    def __reduce__(self):
        raise TypeError("a Proven cannot be pickled: keep the network and its variables, and prove them again")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Proven cannot be changed: {name}")

    @functools.cached_property
    def rounding(self) -> float | None:
        """E of all images: that of the grey one, from which none is farther than half a diagonal."""
        if self._unproven:
            return None
        _, norms = self._program.features(np.full((1, *self.image_shape), 0.5, self.precision))
        return float(self._program.error(norms, np.full(1, self._diagonal / 2 + 1))[0])

    @functools.cached_property
    def program_sha256(self) -> str:
        """Of the program of an image as it goes to the compiler: what its layers compute and the constants in them."""
        image = jax.ShapeDtypeStruct((1, *self.image_shape), self.precision)
        with arithmetic(self.precision):
            return hashlib.sha256(self._outputs.lower(self._cast, image).as_text().encode()).hexdigest()

    @property
    def unproven(self) -> list[str]:
        """What states no rounding, by kind; empty where certificates are about the program that was run."""
        return list(self._unproven)

    @property
    def _diagonal(self) -> float:
        """Of [0, 1]^n: the largest distance of two images."""
        return math.sqrt(math.prod(self.image_shape)) * (1 + 1e-15)

    def certify(self, images, labels=None, *, float_slack: float = 0.0) -> Certificate:
        """Certified radii of images (N, H, W, C) in [0, 1] with labels (N,), or of the predictions, see `certify`."""
        features, norms = self._features(images)
        labels = self._classes(features) if labels is None else labels
        return self._certified(features, norms, labels, float_slack)[0]

    def certify_with_error(self, images, labels, *, float_slack: float = 0.0) -> tuple[Certificate, np.ndarray]:
        """`certify`, and the error bound E, (N,), of each image and of what is within its radius; 2 E is subtracted."""
        return self._certified(*self._features(images), labels, float_slack)

    def certify_features(self, features, images, labels) -> Certificate:
        """`certify`, of what another program, of which the same rounding is proven, computed of these images."""
        return self._certified(features, self._features(images)[1], labels, 0.0)[0]

    def _certified(self, features, norms, labels, float_slack) -> tuple[Certificate, np.ndarray]:
        if not 0 <= float_slack < np.inf:
            raise ValueError(f"float_slack={float_slack!r}: must be a finite number >= 0")
        if self._unproven:
            certificate = over_bound(self._certifier(features, labels, None), self.lipschitz_bound, float_slack)
            protocol = f"proof in real arithmetic: of {self._unproven[0]} no rounding is stated"
            return dataclasses.replace(certificate, protocol=protocol), np.full(len(features), np.nan)
        everywhere = np.full(len(features), self._diagonal)
        reach = np.linalg.norm(np.asarray(features, np.float64), axis=1) * (1 + 1e-10)
        with np.errstate(over="ignore", invalid="ignore"):
            reach = reach + self.lipschitz_bound * everywhere + 2 * self._program.error(norms, everywhere)
        slack = np.asarray(self.head.rounding(own_of(self._cast, "head"), reach)) * self._program.unit
        of_features = self._certifier(features, labels, None, slack)
        with np.errstate(divide="ignore", invalid="ignore"):
            radius = np.where(of_features.radius > 0, of_features.radius / self.lipschitz_bound, 0.0)
        error = self._program.error(norms, np.minimum(np.nextafter(radius, np.inf), everywhere))
        found = over_bound(of_features, self.lipschitz_bound, 2 * error + float_slack)
        return dataclasses.replace(found, prediction=self._predicted(features, labels)), error

    def _logits(self, features) -> np.ndarray:
        """Of the program, (N, num_classes)."""
        with arithmetic(self.precision):
            return np.array(self.head.evaluate(own_of(self._cast, "head"), jnp.asarray(features)))

    def _predicted(self, features, labels) -> np.ndarray:
        """The label where its logit in the program is the strict maximum, otherwise the largest of the others."""
        logits, labels = self._logits(features), np.asarray(labels)
        rows = np.arange(len(logits))
        own = logits[rows, labels]
        logits[rows, labels] = -np.inf
        others = np.argmax(logits, axis=1)
        return np.where(own > logits[rows, others], labels, others).astype(np.int64)

    def predict(self, images) -> tuple[np.ndarray, np.ndarray]:
        """(classes, radii), (N,) each: what the program predicts, and how far from the image that is proven."""
        features, norms = self._features(images)
        classes = self._classes(features)
        return classes, self._certified(features, norms, classes, 0.0)[0].radius

    def _classes(self, features) -> np.ndarray:
        return np.argmax(self._logits(features), axis=1)

    def attack(
        self, images, labels, radii, strength="fast", key=None, domain="images", border=pgd.NO_BORDER
    ) -> pgd.Attack:
        """What an adversary finds within `radii` of images, beside the proof: `pgd.Attack`, see `pgd.l2_attack`.

        Args:
          images: (N, H, W, C) in [0, 1]; labels: (N,) integers.
          radii: l2, a number or (N,); the diagonal of [0, 1]^n at most is taken.
          strength: a key of `pgd.STRENGTHS`.
          key: of random starts; None: `jax.random.key(0)`.
          domain: 'images', pixels in [0, 1] and 0 in the border; or 'space', all points, which certificates are about.
          border: ((top, bottom), (left, right)), pixels around the images that are no part of them (`Dataset.border`).

        Returns:
          (images (N, H, W, C) of smallest margin, their margins (N,) in the program that certifies); <= 0: wrong class.

        Raises:
          ValueError: images, labels, radii or border of another shape or range, an unknown strength or domain, an image
            that is not 0 in the border.
        """
        return pgd.checked_attack(self, images, labels, radii, strength, key, domain, border)

    def features(self, images) -> np.ndarray:
        """g(x), (N, D), for images (N, H, W, C), as the program that certifies computes them, batch by batch.

        Raises:
          ValueError: images that are no float32 or float64 in [0, 1], or of another shape; float64 ones for a program
            in float32.
        """
        return self._features(images)[0]

    def _features(self, images) -> tuple[np.ndarray, np.ndarray]:
        check_nobody_listens()
        images = checked_images(images, self.image_shape)
        if self.precision == "float32" and images.dtype != np.float32:
            raise ValueError(f"images: dtype must be float32 for a program in float32, got {images.dtype}")
        return self._program.features(images)

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
        """The head's certificates at features (N, D), in feature space, of the head in real arithmetic.

        Args:
          rivals: only so many classes with the largest logits beside the label count: no proof.
        """
        return self._certifier(features, labels, rivals)


def outputs(layers: tuple[Layer, Head], variables: Variables, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(features, logits) by a backbone and a head in evaluation, every product at full precision."""
    check_nobody_listens()
    backbone, head = layers
    with jax.default_matmul_precision("highest"):
        features = backbone.evaluate(variables, images)
        return features, head.evaluate(own_of(variables, "head"), features)


def prove(
    model: Classifier,
    variables: Variables,
    image_shape=None,
    curvature_file: Path | None = None,
    precision: str = "float64",
) -> Proven:
    """The proof of a network, and the only way to a certificate.

    The layers of `model.parts()` are taken as they stand, the variables are copied, and the bound is that of these
    layers with these variables.  Certification runs these very layers, each by itself, in evaluation, on nothing but
    its input: a method that a subclass or an interceptor changes in `model` is never called.

    Args:
      model: a `LipConvnet`, `Network` or any other `Classifier`.
      variables: {'params': …, 'spectral': …} as its `init` or `tightened` gives them.
      image_shape: (H, W, C); None: that of the network.
      curvature_file: where the costly bounds of a curvature head are kept; one of another head is not used.
      precision: of the program that certifies: 'float64', parameters and images cast up, which is exact; or 'float32',
        for a proof about the network as it is deployed, with radii that are smaller by what its rounding may do.

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
    return Proven(model, variables, image_shape, curvature_file, precision)


def certify(model: Classifier, variables: Variables, images, labels=None, *, float_slack: float = 0.0) -> Certificate:
    """Certified radii of images: no l2 change of the pixels smaller than `radius` changes the prediction.

    radius = (head's certificate at the features − 2 E − float_slack) / L with a proven bound L of Lip(g), the paper's
    Proposition 1, and E a proven bound of what rounding does to features: the statement is about the program that was
    run, in float64, at every point within the radius (and no farther than the diagonal of [0, 1]^n, as all images are).
    For many batches make `prove(…)` once.

    Args:
      model, variables: see `prove`.
      images: (N, H, W, C) float32 or float64 in [0, 1].
      labels: (N,) integers; None: what the program predicts, so that radius says how far the prediction is proven.
      float_slack: a further error of features, in l2, that the certificates are to cover.

    Returns:
      A `Certificate` in input space.  `exact` and `upper` are those of the head: upper is the largest radius that any
      certificate through this Lipschitz bound could give.  `protocol` says so where a layer states no rounding.

    Raises:
      TypeError, ValueError: see `prove`; images outside [0, 1], not finite, of another shape or in half precision;
        labels out of range; a float_slack that is negative or not finite.
    """
    images = checked_images(images)
    proven = prove(model, variables, model.image_shape or images.shape[1:])
    return proven.certify(images, labels, float_slack=float_slack)


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


def copied_variables(variables: Variables) -> Variables:
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

    return FrozenDict({name: of_tree(name, tree) for name, tree in variables.items()})


def check_nobody_listens() -> None:
    """ValueError under `nn.intercept_methods`, which may change what layers compute."""
    if list(nn.module._global_interceptor_stack):
        raise ValueError("a Flax method interceptor is at work (nn.intercept_methods): leave it to prove and certify")
