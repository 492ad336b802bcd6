"""What bfloat16 convolutions in training (config.model.compute_dtype) do to the orthogonality of the layers.

    python benchmarks/bfloat16_defect.py [--depth=5 --init_channels=8 --images=64]

Initial weights, random images, every layer of LipConvnet by itself.  Each operation runs by itself, since XLA may leave
out roundings within a compiled program, as it does on a CPU.  A skew kernel rounded to bfloat16 is skew, so what is
lost is rounding of activations.  Gain: ‖p(A)x‖ / ‖x‖, smallest and largest over the images; error: the largest
‖p(A)x in the dtype − p(A)x in float64‖ / ‖x‖.  Prints markdown.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import lipjax
from lipjax import ops
from lipjax.layers.layer import own_of

DEPTH = flags.DEFINE_integer("depth", 5, "n of LipConvnet-n.")
INIT_CHANNELS = flags.DEFINE_integer("init_channels", 8, "Channels after the first convolution.")
IMAGES = flags.DEFINE_integer("images", 64, "Random inputs of each layer.")


def main(_):
    model = lipjax.LipConvnet(DEPTH.value, INIT_CHANNELS.value)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(0)
    lowest, highest = model.polynomial.gain(model.polynomial.norm)
    print(f"LipConvnet-{DEPTH.value}, {INIT_CHANNELS.value} channels; exact gains: {lowest:.5f} to {highest:.5f}\n")
    print("| layer | gain, float32 | error, float32 | gain, bfloat16 | error, bfloat16 |\n|---|---|---|---|---|")
    layers = dict(model.parts()[0].layers)
    for step in model.steps():
        layer, own = layers[step.name], own_of(variables, step.name)
        kernel = np.asarray(layer.normalised_kernel(own))
        x = rng.standard_normal((IMAGES.value, *step.size, kernel.shape[-1]))
        with jax.enable_x64(True):
            exact = np.asarray(ops.orthogonal_conv(jnp.asarray(x), jnp.asarray(kernel, float), model.polynomial))
        cells = []
        for dtype in (jnp.float32, jnp.bfloat16):
            y = ops.orthogonal_conv(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, dtype), model.polynomial)
            gain, error = norms(y) / norms(x), norms(np.asarray(y, float) - exact) / norms(x)
            cells += [f"{gain.min():.5f} … {gain.max():.5f}", f"{error.max():.1e}"]
        print(f"| {step.name}, {kernel.shape[-1]} channels, {step.size[0]}×{step.size[1]} | {' | '.join(cells)} |")


def norms(batch) -> np.ndarray:
    return np.linalg.norm(np.asarray(batch, float).reshape(len(batch), -1), axis=1)


if __name__ == "__main__":
    app.run(main)
