"""Flax layers over `ops`, each with the Lipschitz bound that it can prove."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from lipjax import ops
from lipjax.ops import skew
from lipjax.ops.polynomials import Polynomial

# Power iterations that settle the tracked norms from anywhere; training itself does one a step.
SETTLING_STEPS = 50


class SkewOrthogonalConv(nn.Module):
    """y = p(A) x + b with A the convolution with the normalised skew kernel (paper, section 4).

    Works on max(C_in, features) channels: the input is zero-padded when features > C_in, and the first `features`
    channels are kept when features < C_in.  Neither enlarges a distance.

    Variables: params/kernel (k, k, C, C), params/bias (features,), and spectral/vectors, the power vectors of the
    four-norm normalisation; with train=True and 'spectral' mutable they advance by one power step a call.

    Attributes:
      features: output channels.
      kernel_size: k, odd.
      polynomial: p in training.
      eval_polynomial: p in evaluation; None: the same.
      gradient: 'fast' or 'exact', see `ops.orthogonal_conv`.
    """

    features: int
    kernel_size: int = 3
    polynomial: Polynomial = ops.taylor(6)
    eval_polynomial: Polynomial | None = None
    gradient: str = "fast"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """(N, H, W, C_in) → (N, H, W, features)."""
        channels = max(x.shape[-1], self.features)
        shape = (self.kernel_size, self.kernel_size, channels, channels)
        kernel = self.param("kernel", nn.initializers.normal(channels**-0.5), shape)
        bias = self.param("bias", symmetric_uniform(channels**-0.5), (self.features,))
        vectors = self.variable("spectral", "vectors", self._settled_vectors, kernel)
        if train and self.is_mutable_collection("spectral") and not self.is_initializing():
            vectors.value = skew.power_steps(skew.skew_kernel(kernel), vectors.value)
        polynomial = self.polynomial if train else self.eval_polynomial or self.polynomial
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1])))
        y = ops.orthogonal_conv(x, skew.normalised_skew_kernel(kernel, vectors.value), polynomial, self.gradient)
        return y[..., : self.features] + bias

    def _settled_vectors(self, kernel: jax.Array) -> skew.PowerVectors:
        start = skew.random_power_vectors(self.make_rng("params"), kernel.shape, kernel.dtype)
        return skew.power_steps(skew.skew_kernel(kernel), start, SETTLING_STEPS)

    def lipschitz_bound(self, variables: Mapping[str, Any], size: int) -> float:
        """max |p(it)| over 0 <= t <= σ̄ for the evaluation polynomial and a proven σ̄ >= ‖A‖ at size×size pixels.

        Args:
          variables: {'params': …, 'spectral': …} of this layer alone.
          size: height and width of its input.
        """
        with jax.enable_x64(True):
            kernel, vectors = jax.tree.map(
                lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64),
                (variables["params"]["kernel"], variables["spectral"]["vectors"]),
            )
            kernel = np.asarray(skew.normalised_skew_kernel(kernel, vectors))
        return (self.eval_polynomial or self.polynomial).gain(ops.conv_norm_bound(kernel, size))[1]


def symmetric_uniform(limit: float):
    """Initialiser U(−limit, limit)."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


def settle(variables: Mapping[str, Any], steps: int = SETTLING_STEPS) -> dict[str, Any]:
    """The variables with every layer's power vectors advanced by `steps` power iterations on its present kernel.

    Training calls it in the middle of each epoch, where kernels have moved and one power step a training step may lag.
    """
    params = traverse_util.flatten_dict(variables["params"])
    vectors = traverse_util.flatten_dict(variables["spectral"], is_leaf=lambda path, _: path[-1:] == ("vectors",))
    settled = {
        path: skew.power_steps(skew.skew_kernel(params[*path[:-1], "kernel"]), value, steps)
        for path, value in vectors.items()
        if path[-1] == "vectors"
    }
    return {**variables, "spectral": {**variables["spectral"], **traverse_util.unflatten_dict(settled)}}


class ProjectionPool(nn.Module):
    """`ops.projection_pool` with learnable angles: (…, C) → (…, C/2), 1-Lipschitz.

    Params: theta (C/2,), initialised U(0, π); training keeps it in [0, π] by `project_parameters` after each step.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        theta = self.param("theta", _uniform_angles, (x.shape[-1] // 2,))
        return ops.projection_pool(x, theta)


def _uniform_angles(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, 0, jnp.pi)


def project_parameters(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with every pooling angle clipped to [0, π]; all else as it is."""
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict(
        {path: jnp.clip(leaf, 0, jnp.pi) if path[-1] == "theta" else leaf for path, leaf in flat.items()}
    )
