"""Tightness and time of the proven norm bounds of every convolution of a network.

    python benchmarks/norm_bounds.py [--depth=40 --init_channels=32]

Random skew kernels.  Prints for each distinct shape the bound, a norm found by Lanczos on AᵀA (from below, converged to
1e-6), their ratio and the seconds of the bound; then the seconds of all layers.  Set OPENBLAS_NUM_THREADS=1 on a busy
machine: the threads of LAPACK wait for each other.
"""

import time

import numpy as np
import scipy.sparse.linalg
from absl import app, flags

from lipjax import ops
from lipjax.models import lipconvnet as models

DEPTH = flags.DEFINE_integer("depth", 40, "n of LipConvnet-n.")
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


def main(_):
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
