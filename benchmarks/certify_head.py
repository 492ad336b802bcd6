"""Speed and quality of the CRC head's certificates, in float64 and over all rivals.

    python benchmarks/certify_head.py [--workdir=RUN --data_dir=DIR] [--num_examples=2000 --repeats=5]

On the test features of a trained CRC run; without --workdir, on a head of the size below that is trained in seconds on
synthetic features (clusters, adversarial training): its pairs are easier than those of a real run.  Prints images/s
with screening of the rivals (`certify_crc`) and with every rival refined, medians of interleaved runs, the fractions
that are exact and within 1 % of the upper bound.  Curvature bounds, paid once a head, are not counted (`curvature.py`).
"""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging

from lipjax.certificates.crc import certify_crc, pair_bounds
from lipjax.certificates.curvature_cache import CurvatureCache
from lipjax.models.program import penultimate_features
from lipjax.system import compilation
from lipjax.workdir import load_trained

WORKDIR = flags.DEFINE_string("workdir", None, "A trained run with head = 'crc'; none: a synthetic head.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Overrides the run's data_dir.")
NUM_EXAMPLES = flags.DEFINE_integer("num_examples", 2000, "Images to certify.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Timed runs of each kind.")
CLASSES = flags.DEFINE_integer("classes", 10, "Classes of the synthetic head.")
HIDDEN = flags.DEFINE_integer("hidden", 512, "Hidden units of the synthetic head.")
WIDTH = flags.DEFINE_integer("width", 512, "Features of the synthetic head.")
REFINE_ALL = flags.DEFINE_bool("refine_all", True, "Time every rival refined too; slow for 100 classes.")
PREDICTED = flags.DEFINE_bool("predicted", False, "Certify the predicted class of each image, right or wrong.")


def main(_):
    logging.set_verbosity(logging.WARNING)
    compilation.use_cache()
    if WORKDIR.value:
        features, head, labels = trained_features()
        print(f"features of the test split, {WORKDIR.value}")
    else:
        features, head, labels = synthetic(CLASSES.value, HIDDEN.value, WIDTH.value, NUM_EXAMPLES.value)
        print("no --workdir: synthetic features and head, seed 0")
    if PREDICTED.value:
        hidden = np.logaddexp(0, features @ head["w1"].T + head["b1"])
        labels = np.argmax(hidden @ head["w2"].T + head["b2"], axis=1)
    print(f"{len(labels)} images, {features.shape[1]} features, w1 {head['w1'].shape}, w2 {head['w2'].shape}")

    cache = CurvatureCache(None, head["w1"], head["w2"])
    double = np.asarray(features, np.float64), {k: np.asarray(v, np.float64) for k, v in head.items()}, labels
    runs = {
        "screened": lambda: certify_crc(features, head, labels, curvature=cache),
        "every rival refined": lambda: pair_bounds(*double, cache),
    }
    if not REFINE_ALL.value:
        del runs["every rival refined"]
    seconds = {name: [] for name in runs}
    for _ in range(REPEATS.value + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    for name, times in seconds.items():
        rates = sorted(len(labels) / t for t in times[1:])  # the first run compiles
        print(f"{name:<20} {statistics.median(rates):7.0f} images/s  (from {rates[0]:.0f} to {rates[-1]:.0f})")

    certificate = runs["screened"]()
    right = certificate.prediction == labels
    radius, upper = certificate.radius[right], certificate.upper[right]
    print(
        f"correct {right.mean():.2%}; of these: exact {certificate.exact[right].mean():.2%}, within 1 % of upper ",
        end="",
    )
    print(
        f"{np.mean(radius >= 0.99 * upper):.2%}, radius 0: {np.sum(radius == 0)}, above upper: {np.sum(radius > upper)}"
    )
    print(f"mean radius {radius.mean():.4f}, feature space")


def trained_features():
    trained = load_trained(WORKDIR.value, DATA_DIR.value)
    model, variables, dataset = trained.model, trained.variables, trained.dataset()
    if model.head != "crc":
        raise app.UsageError(f"{WORKDIR.value} has the head {model.head!r}; this benchmark needs 'crc'")
    images, labels = (part[: NUM_EXAMPLES.value] for part in dataset.test)
    features = penultimate_features(model, variables, images.astype(np.float32) / np.float32(dataset.pixel_max))
    return features, jax.tree.map(np.asarray, dict(variables["params"]["head"])), labels


def synthetic(classes: int, hidden: int, width: int, count: int, steps: int = 300):
    """(features, head, labels): four clusters a class, norms of about 2; trained half a unit down the margin."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, 4, width))
    centres *= 1.5 / np.linalg.norm(centres, axis=-1, keepdims=True)
    labels = rng.integers(0, classes, 20000)
    spread = np.arange(1, width + 1) ** -0.7
    spread *= 1.5 / np.linalg.norm(spread)
    features = centres[labels, rng.integers(0, 4, len(labels))] + rng.normal(size=(len(labels), width)) * spread
    features = features.astype(np.float32)
    limits = {"w1": ((hidden, width), width), "b1": ((hidden,), width)}
    limits |= {"w2": ((classes, hidden), hidden), "b2": ((classes,), hidden)}
    head = {k: rng.uniform(-1, 1, shape).astype(np.float32) * fan_in**-0.5 for k, (shape, fan_in) in limits.items()}

    def logits(head, y):
        return jax.nn.softplus(y @ head["w1"].T + head["b1"]) @ head["w2"].T + head["b2"]

    def loss(head, y, label):
        own = jax.nn.one_hot(label, classes, dtype=bool)

        def margin(y):
            h = logits(head, y)
            return jnp.sum(jnp.sum(h * own, axis=1) - jnp.max(jnp.where(own, -jnp.inf, h), axis=1))

        g = jax.grad(margin)(y)
        moved = y - 0.5 * jax.lax.stop_gradient(g / (jnp.linalg.norm(g, axis=1, keepdims=True) + 1e-9))
        return optax.softmax_cross_entropy_with_integer_labels(logits(head, moved), label).mean()

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9))

    @jax.jit
    def step(head, state, y, label):
        updates, state = optimizer.update(jax.grad(loss)(head, y, label), state)
        return optax.apply_updates(head, updates), state

    state = optimizer.init(head)
    for _ in range(steps):
        batch = rng.integers(0, len(labels), 128)
        head, state = step(head, state, features[batch], labels[batch])
    return features[:count], jax.tree.map(np.asarray, head), labels[:count]


if __name__ == "__main__":
    app.run(main)
