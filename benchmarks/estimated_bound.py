"""By how much the estimates that training works with are below what is true, at the end of a training.

    python benchmarks/estimated_bound.py --pretrained=cifar10-small,cifar100-small
    python benchmarks/estimated_bound.py --workdir=runs/x

Prints for each network `Classifier.estimated_bound` of the variables as they were trained, the proven bound, and their
ratio; for a curvature head also which part of the true curvature of a pair of classes EMMA works with, and which part
two power steps would give.  No image is read.
"""

import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from lipjax import prove, released
from lipjax.layers import CurvatureHead
from lipjax.layers.curvature_head import ritz_curvature
from lipjax.system import printed
from lipjax.training.losses.crc import pair_curvature
from lipjax.workdir import load_trained

PRETRAINED = flags.DEFINE_list("pretrained", [], "Released networks.")
WORKDIR = flags.DEFINE_list("workdir", [], "Folders of trainings.")


def main(argv):
    """A line each."""
    del argv
    logging.set_verbosity(logging.WARNING)
    networks = {name: released.read(name) for name in PRETRAINED.value}
    found = {name: (network.model, network.variables) for name, network in networks.items()}
    trained = {place: load_trained(place) for place in WORKDIR.value}
    found |= {place: (network.model, network.saved) for place, network in trained.items()}
    for name, (model, variables) in found.items():
        estimated = float(model.estimated_bound(variables))
        proven = prove(model, model.tightened(variables)).lipschitz_bound
        above = 100 * (proven / estimated - 1)
        print(f"{name}: estimated {estimated:.5f}, proven {printed.upper(proven, '.5f')}, {above:.1f} % above")
        if isinstance(model.parts()[1], CurvatureHead):
            print(curvatures(*(variables["params"]["head"][weights] for weights in ("w1", "w2"))))


def curvatures(w1, w2) -> str:
    """Of 100 pairs of classes at random."""
    rng = np.random.default_rng(0)
    labels, rivals = rng.integers(len(w2), size=100), rng.integers(1, len(w2), size=100)
    w1, w2 = (np.asarray(weights, np.float64) for weights in (w1, w2))
    weights = np.maximum(w2[(labels + rivals) % len(w2)] - w2[labels], 0) / 4
    true = [np.linalg.eigvalsh(w1.T * row @ w1)[-1] for row in weights]
    top = np.linalg.svd(w1)[2][0]
    float32 = [jnp.asarray(array, jnp.float32) for array in (w1, weights, top)]
    parts = {"EMMA": ritz_curvature(*float32[:2]), "two power steps": pair_curvature(*float32)}
    found = {name: np.asarray(part, np.float64) / true for name, part in parts.items()}
    return "; ".join(f"{name}: {np.median(r):.3f} of the curvature (from {r.min():.3f})" for name, r in found.items())


if __name__ == "__main__":
    app.run(main)
