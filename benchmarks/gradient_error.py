"""How far the fast kernel gradient is from the exact one, in a whole network.

    python benchmarks/gradient_error.py [--workdir=RUN --data_dir=DIR] [--batch_size=128]

Measured: the gradient of the mean cross entropy of the logits with respect to the raw kernels, one batch, float32, on
the training path (training polynomial, no augmentation, tracked norms as they are).  A table row is the kernel of one
convolution; 'all kernels' is their concatenation, which is the direction that the optimiser follows.  Every gradient
is exact in the activations, so all convolutions see the same cotangents: a row is the error made in that layer alone,
and nothing compounds over depth.  Of a curvature head it is the clean cross entropy, without attack and regulariser.

With --workdir, the first training images and the checkpoint that certification takes; the errors grow with the norms of
the layers.  Without, LipConvnet-5 with 8 channels at its initial weights on random images, for a Taylor polynomial and
for one with an interval.
"""

import jax
import numpy as np
import optax
from absl import app, flags, logging

from lipjax import ops
from lipjax.models.lipconvnet import LipConvnet
from lipjax.system import compilation
from lipjax.workdir import load_trained

WORKDIR = flags.DEFINE_string("workdir", None, "A trained run; none: initial weights and random images.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Overrides the run's data_dir.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images.", lower_bound=1)

APPROXIMATE = [gradient for gradient in ops.GRADIENTS if gradient != "exact"]
EQUIRIPPLE = ops.Polynomial((1, 0.5044, 0.2933, 0.1854), norm=2)


def main(_):
    logging.set_verbosity(logging.WARNING)
    compilation.use_cache()
    if WORKDIR.value:
        trained = load_trained(WORKDIR.value, DATA_DIR.value)
        model, variables, dataset = trained.model, trained.variables, trained.dataset()
        images, labels = (part[: BATCH_SIZE.value] for part in dataset.train)
        print(f"{WORKDIR.value}: {model.depth=}, {model.init_channels=}, {model.head=}, {len(labels)} images")
        report(model, variables, images.astype(np.float32) / np.float32(dataset.pixel_max), labels)
        return
    print(f"no --workdir: LipConvnet-5, 8 channels, initial weights, {BATCH_SIZE.value} random images")
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(BATCH_SIZE.value, 32, 32, 3)).astype(np.float32)
    labels = rng.integers(0, 10, BATCH_SIZE.value)
    for polynomial in (ops.taylor(6), EQUIRIPPLE):
        model = LipConvnet(init_channels=8, polynomial=polynomial)
        report(model, jax.jit(model.init)(jax.random.key(0), images[:1]), images, labels)


def report(model: LipConvnet, variables, images: np.ndarray, labels: np.ndarray) -> None:
    """Print the table of one network, in markdown."""
    print(f"\n{model.polynomial}\n")
    gradients = {how: kernel_gradients(model.clone(gradient=how), variables, images, labels) for how in ops.GRADIENTS}
    columns = [f"{how} {what}" for how in APPROXIMATE for what in ("error", "cosine")]
    print(f"| kernel | shape | pixels | {' | '.join(columns)} |")
    print("|---|---|---|" + "---|" * len(columns))
    for step in model.steps():
        k, _, _, channels = variables["params"][step.name]["kernel"].shape
        row = [step.name, f"{k}×{k}×{channels}", f"{step.size[0]}×{step.size[1]}"]
        print_row(row, {how: gradient[step.name] for how, gradient in gradients.items()})
    print_row(["all kernels", "", ""], {how: np.concatenate(list(g.values())) for how, g in gradients.items()})


def kernel_gradients(model: LipConvnet, variables, images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The gradient of each raw kernel, flat, float64."""

    @jax.jit
    def gradient(params, spectral, images, labels):
        def loss(params):
            logits = model.apply({"params": params, "spectral": spectral}, images, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jax.grad(loss)(params)

    gradients = gradient(variables["params"], variables["spectral"], images, labels)
    return {step.name: np.asarray(gradients[step.name]["kernel"], float).ravel() for step in model.steps()}


def print_row(cells: list[str], gradients: dict[str, np.ndarray]) -> None:
    exact = gradients["exact"]
    for how in APPROXIMATE:
        error = np.linalg.norm(gradients[how] - exact) / np.linalg.norm(exact)
        cosine = gradients[how] @ exact / np.linalg.norm(gradients[how]) / np.linalg.norm(exact)
        cells = [*cells, f"{error:.2%}", f"{cosine:.5f}"]
    print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    app.run(main)
