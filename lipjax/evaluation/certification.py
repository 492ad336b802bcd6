"""From images to certified radii."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from lipjax.certificates.lln import Certificate, certify_crc, certify_lln
from lipjax.checkpoint import Checkpoints
from lipjax.config import build_model, read_config
from lipjax.data import load
from lipjax.layers.proof import product
from lipjax.models import network
from lipjax.models.lipconvnet import LipConvnet
from lipjax.system.devices import over_devices, padded_to_devices
from lipjax.training.recipe import TrainState, initial_state, make_optimizer

BATCH_SIZE = 500


def certify(model: nn.Module, variables: Mapping[str, Any], images, labels, *, float_slack: float = 0.0) -> Certificate:
    """Certified radii of images: no l2 change of the pixels smaller than `radius` changes the prediction.

    radius = (head's certificate at the features g(x) − float_slack) / L with a proven bound L of Lip(g), the paper's
    Proposition 1.  Features are computed at full float32 precision (float64 if the images are float64 under
    `jax.enable_x64`), the head and the radii in float64.

    Args:
      model, variables: a `LipConvnet` and its {'params': …, 'spectral': …}; or any Linen network of lipjax layers,
        whose chain of proof is found by `network.chain_of_proof`.
      images: (N, H, W, C) float32 or float64 in [0, 1].
      labels: (N,) integers.
      float_slack: an error of the computed features, in l2, that the certificates are to cover.

    Returns:
      A `Certificate` in input space.  `exact` and `upper` are those of the head: upper is the largest radius that any
      certificate through this Lipschitz bound could give.

    Raises:
      ValueError: images outside [0, 1], not finite, of another shape or in half precision; labels out of range; a
        network with a layer that states no bound (named); a float_slack that is negative or not finite.
    """
    if isinstance(model, LipConvnet):
        bound = model.lipschitz_bound(variables)
    else:
        images = checked_images(images)
        bound = product(network.chain_of_proof(model, variables, images.shape[1:]))
    return certify_with_bound(model, variables, images, labels, bound, float_slack=float_slack)


def certify_with_bound(
    model, variables, images, labels, lipschitz_bound: float, curvature=None, float_slack: float = 0.0
) -> Certificate:
    """`certify` with a bound of Lip(g), and curvature bounds of a CRC head (`certify_crc`), that are already known."""
    images = checked_images(images)
    if isinstance(model, LipConvnet):
        kind, head = model.head, variables["params"]["head"]
    else:
        kind, head = network.head_of(model, variables, images.shape[1:])
    features = penultimate_features(model, variables, images)
    return certify_features(kind, head, features, labels, lipschitz_bound, curvature, float_slack)


def checked_images(images) -> np.ndarray:
    """The images as an array; ValueError unless they are float32 or float64 in [0, 1], (N, H, W, C)."""
    images = np.asarray(images)
    if images.dtype.name not in ("float32", "float64"):
        raise ValueError(f"images: dtype must be float32 or float64 in [0, 1], got {images.dtype}")
    if images.ndim != 4:
        raise ValueError(f"images: shape must be (N, H, W, C), got {images.shape}")
    if not (np.isfinite(images).all() and images.min(initial=0.0) >= 0 and images.max(initial=1.0) <= 1):
        raise ValueError(f"images: pixels must lie in [0, 1], got {images.min()} to {images.max()}")
    return images


def penultimate_features(model: nn.Module, variables: Mapping[str, Any], images: np.ndarray) -> np.ndarray:
    """g(x), (N, D), for images (N, H, W, C), batch by batch, every product at full precision (no TF32, no bf16)."""
    if jax.config.read("jax_enable_x64"):
        images = images.astype(np.result_type(images, *jax.tree.leaves(variables["params"])))
    size = padded_to_devices(min(BATCH_SIZE, max(len(images), 1)))
    batches = [images[start : start + size] for start in range(0, max(len(images), 1), size)]
    padded = [np.concatenate([b, np.zeros((size - len(b), *b.shape[1:]), b.dtype)]) for b in batches]
    with jax.default_matmul_precision("highest"):
        features = [np.asarray(_features(model, variables, over_devices(b))) for b in padded]
    return np.concatenate(features)[: len(images)]


@jax.jit(static_argnums=0)
def _features(model, variables, images):
    if isinstance(model, LipConvnet):
        return model.apply(variables, images, method="features")
    return network.features(model, variables, images)


def certify_features(
    kind: str, head, features, labels, lipschitz_bound: float, curvature=None, float_slack: float = 0.0
) -> Certificate:
    """Certificates of a head, 'lln' or 'crc' with its parameters, at the features, less float_slack, over Lip(g)."""
    if not 0 <= float_slack < np.inf:
        raise ValueError(f"float_slack={float_slack!r}: must be a finite number >= 0")
    if kind == "crc":
        feature_space = certify_crc(features, head, labels, curvature=curvature)
    else:
        feature_space = certify_lln(features, head["weight"], head["bias"], labels)
    radius, exact = feature_space.radius, feature_space.exact
    if float_slack:
        radius = np.maximum(np.nextafter(radius - float_slack, -np.inf), 0.0)
        exact = exact & (radius == feature_space.radius)
    # One rounding of the division, downwards, keeps the quotient a lower bound.
    radius = radius / lipschitz_bound
    radius = np.where((radius > 0) & (radius < np.inf), np.nextafter(radius, 0), radius)
    upper = feature_space.upper / lipschitz_bound
    upper = np.where(upper > 0, np.nextafter(upper, np.inf), upper)
    return dataclasses.replace(feature_space, radius=radius, exact=exact, upper=upper)


def certified_accuracy(certificate: Certificate, radius: float) -> float:
    """Fraction of inputs that are predicted right with a certified radius strictly above `radius`."""
    return float(np.mean(certificate.radius > radius))


def load_trained(workdir: str | os.PathLike, data_dir: str | None = None):
    """(config, dataset, model, variables) of a workdir, from its best checkpoint if there is one, else its last.

    Held norms are tightened (`LipConvnet.tightened`), so that every layer is 1-Lipschitz by proof.

    Reads config.json and the checkpoint only: no Python config is executed and nothing is unpickled.

    Raises:
      FileNotFoundError, ValueError, CheckpointError, DataError: no training there, a damaged config or checkpoint, data
        that cannot be read.
    """
    workdir = Path(workdir)
    config = read_config(workdir)
    if data_dir is not None:
        config.data_dir = data_dir
    checkpoints = Checkpoints(workdir)
    kind = "best" if checkpoints.has("best") else "last"
    checkpoints.metadata(kind)  # fails first where there is none, before any data is read
    dataset = load(config.dataset, config.data_dir)
    model = build_model(config, dataset.image_shape, dataset.num_classes)
    template = jax.eval_shape(lambda: initial_state(model, make_optimizer(config, 1), config.seed))
    state: TrainState = checkpoints.restore(kind, template)[0]
    return config, dataset, model, model.tightened({"params": state.params, "spectral": state.spectral})
