"""Tightness and time of the proven norm bounds of every convolution of a network.

    python benchmarks/norm_bounds.py [--depth=40 --init_channels=32]
    python benchmarks/norm_bounds.py --trunk=64 --size=16          # residual convolutions of LiResNet

Random skew kernels.  Prints for each distinct shape the bound, a norm found by Lanczos on AᵀA (from below, converged to
1e-6), their ratio and the seconds of the bound; then the seconds of all layers.  Set OPENBLAS_NUM_THREADS=1 on a busy
machine: the threads of LAPACK wait for each other.

With --trunk three kernels of the identity and noise of norm about 1, the third with a smooth direction of rank one too,
as trained ones have; the norm is that of 500 steps of power iteration, as the authors certify by.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from absl import app, flags

from lipjax import ops
from lipjax.interop.claim import norm_power_steps
from lipjax.models import lipconvnet as models
from lipjax.ops.general_conv import norm_along
from lipjax.ops.skew import random_unit_image

DEPTH = flags.DEFINE_integer("depth", 40, "n of LipConvnet-n.")
TRUNK = flags.DEFINE_integer("trunk", None, "Channels of residual convolutions 3×3, in place of LipConvnet.")
SIZE = flags.DEFINE_integer("size", 16, "Their height and width.")
INIT_CHANNELS = flags.DEFINE_integer("init_channels", 32, "Channels after the first convolution.")


def norm_from_below(kernel: np.ndarray, size: int) -> float:
    """Lanczos on AᵀA = −A², A the convolution as shifted matrix products: no code shared with the bounds."""
    k, _, channels, _ = kernel.shape
    side = size + k - 1

    def apply(vector):
        padded = np.zeros((side, side, channels))
        padded[k // 2 : k // 2 + size, k // 2 : k // 2 + size] = vector.reshape(size, size, channels)
        taps = ((a, b) for a in range(k) for b in range(k))
        return sum(padded[a : a + size, b : b + size].reshape(-1, channels) @ kernel[a, b] for a, b in taps).ravel()

    shape = (size**2 * channels,) * 2
    gram = scipy.sparse.linalg.LinearOperator(shape, matvec=lambda vector: -apply(apply(vector)), dtype=np.float64)
    start = np.random.default_rng(1).normal(size=shape[0])
    return float(np.sqrt(scipy.sparse.linalg.eigsh(gram, 1, v0=start, tol=1e-6, return_eigenvectors=False)[0]))


def residual_kernels(channels: int):
    """Three kernels (3, 3, C, C)."""
    rng = np.random.default_rng(0)
    for smooth in (0.0, 0.0, 1.0):
        kernel = rng.normal(size=(3, 3, channels, channels)) / np.sqrt(4 * 9 * channels)
        kernel[1, 1] += np.eye(channels)
        ends = rng.normal(size=(2, channels)) / np.sqrt(channels)
        yield kernel + smooth / 9 * np.outer(*ends)


def trunk(channels: int, size: int) -> None:
    image = random_unit_image(jax.random.key(0), (size, size, channels), jnp.float32)
    for kernel in residual_kernels(channels):
        started = time.perf_counter(), time.process_time()
        bound = ops.conv_norm_bound(kernel, size)
        seconds, processor = time.perf_counter() - started[0], time.process_time() - started[1]
        of_kernel = jnp.asarray(kernel, jnp.float32)
        norm = float(norm_along(of_kernel, norm_power_steps(of_kernel, image, 500)))
        print(
            f"  bound {bound:.5f}  norm {norm:.5f}  ratio {bound / norm:.5f}  {seconds:.1f} s, {processor:.1f} s of CPU"
        )


def main(_):
    if TRUNK.value:
        print(f"residual convolutions 3×3, {TRUNK.value} channels, {SIZE.value}×{SIZE.value} pixels")
        trunk(TRUNK.value, SIZE.value)
        return
    steps = models.architecture(DEPTH.value, INIT_CHANNELS.value, 32, 3, True)
    rng, found, total = np.random.default_rng(0), {}, 0.0
    print(f"LipConvnet-{DEPTH.value}, {INIT_CHANNELS.value} channels")
    for step in steps:
        k, channels = step.kernel_size, max(step.in_channels, step.features)
        raw = rng.normal(size=(k, k, channels, channels))
        kernel = (raw - np.flip(raw, (0, 1)).swapaxes(2, 3)) / np.sqrt(4 * k * k * channels)
        started = time.perf_counter()
        bound = ops.conv_norm_bound(kernel, step.size)
        seconds = time.perf_counter() - started
        total += seconds
        shape = (step.size[0], k, channels)
        if shape not in found:
            found[shape] = [bound, norm_from_below(kernel, step.size[0]), []]
        found[shape][2].append(seconds)
    for (size, k, channels), (bound, norm, times) in found.items():
        name = f"{size}×{size}×{channels}, {k}×{k}"
        mean = sum(times) / len(times)
        print(f"  {name:16} bound {bound:.5f}  norm {norm:.5f}  ratio {bound / norm:.5f}  {len(times)} × {mean:.2f} s")
    print(f"  {len(steps)} layers in {total:.1f} s")


if __name__ == "__main__":
    app.run(main)
