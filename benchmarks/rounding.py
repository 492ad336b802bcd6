"""What certificates of the program cost: error bounds against what is measured, time, accuracy, attacks.

    python benchmarks/rounding.py --workdir=runs/x [--data_dir=DIR --num_examples=10000 --attack --output=FILE]
    python benchmarks/rounding.py --depths=5,10,20,40 [--channels=32 --output=FILE]

With a workdir: of its test images, the certified accuracy of the float64 and of the float32 program, beside that of
features in float32 from which nothing is subtracted, as lipjax 0.1 had it; E, and the error measured; certification in
float64 against float32, in turns, as a ratio of medians; and with --attack the fast attack inside each radius.
Otherwise: E / Lip of LipConvnets with their initial weights.  --output: a JSON file to which the results are added.
"""

import json
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from lipjax.certificates.certificate import over_bound
from lipjax.config import parse_radii
from lipjax.evaluation.attack import INSIDE
from lipjax.models import LipConvnet, prove
from lipjax.models.program import penultimate_features
from lipjax.system import compilation
from lipjax.workdir import load_trained

WORKDIR = flags.DEFINE_string("workdir", None, "A run of train.py.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where its data is.")
NUM_EXAMPLES = flags.DEFINE_integer("num_examples", None, "Test images; None: all.")
REPEATS = flags.DEFINE_integer("repeats", 3, "Timings of each, of which the median counts; 0: none.")
ATTACK = flags.DEFINE_bool("attack", False, "Attack each image inside its radius.")
DEPTHS = flags.DEFINE_list("depths", [], "Of LipConvnets with initial weights.")
CHANNELS = flags.DEFINE_integer("channels", 32, "Their initial channels.")
OUTPUT = flags.DEFINE_string("output", None, "A JSON file to which the results are added.")


def of_depth(depth: int) -> dict:
    """E / Lip of a LipConvnet with its initial weights."""
    model = LipConvnet(depth=depth, init_channels=CHANNELS.value)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, *model.image_shape), np.float32))
    proven = prove(model, variables)
    return {"rounding": proven.rounding, "rounding_over_lip": proven.rounding / proven.lipschitz_bound}


def of_run(workdir: Path) -> dict:
    """All of the above, of a run."""
    trained = load_trained(workdir, DATA_DIR.value)
    config, model, variables, dataset = trained.config, trained.model, trained.variables, trained.dataset()
    images = dataset.test.images[: NUM_EXAMPLES.value].astype(np.float32) / np.float32(dataset.pixel_max)
    labels, radii = dataset.test.labels[: NUM_EXAMPLES.value], parse_radii(config.run.radii)
    proven, deployed = (prove(model, variables, precision=name) for name in ("float64", "float32"))

    def without():
        found = proven.certify_head(penultimate_features(model, variables, images), labels)
        return over_bound(found, proven.lipschitz_bound), np.zeros(len(labels))

    def accuracy(certificate):
        right = float(np.mean(certificate.prediction == labels))
        return {"standard": right, **{text: float(np.mean(certificate.radius > r)) for text, r in radii.items()}}

    ways = {"float64": lambda: proven.certify_with_error(images, labels), "as 0.1": without}
    ways |= {"float32": lambda: deployed.certify_with_error(images, labels)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found = {name: way() for name, way in ways.items()}  # and compilation
    for _ in range(REPEATS.value):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: float(np.median(times)) for name, times in seconds.items() if times}
    error = found["float32"][1]
    measured = np.linalg.norm(deployed.features(images).astype(np.float64) - proven.features(images), axis=1)
    result = {
        "images": len(labels),
        "lipschitz_bound": proven.lipschitz_bound,
        "rounding_over_lip": proven.rounding / proven.lipschitz_bound,
        "largest_error_taken_off": float(found["float64"][1].max()),
        "accuracy": {name: accuracy(certificate) for name, (certificate, _) in found.items()},
        "float32_error_bound": {"mean": float(error.mean()), "max": float(error.max())},
        "float32_error_measured": {"mean": float(measured.mean()), "max": float(measured.max())},
        "seconds": medians,
        "float64_over_0.1": medians["float64"] / medians["as 0.1"] if medians else None,
    }
    return result | (attacked(proven, images, labels, found["float64"][0]) if ATTACK.value else {})


def attacked(proven, images, labels, certificate) -> dict:
    """Violations of the fast attack at INSIDE times the radius of each image that has one."""
    chosen = np.flatnonzero(certificate.radius > 0)
    violations, smallest = 0, np.inf
    for part in np.array_split(chosen, max(len(chosen) // 500, 1)):
        found = proven.attack(images[part], labels[part], INSIDE * certificate.radius[part], domain="space")
        violations += int((found.margins <= 0).sum())
        smallest = min(smallest, float(found.margins.min()))
    return {"attacked": len(chosen), "violations": violations, "smallest_margin": smallest}


def main(argv):
    del argv
    compilation.use_cache()
    results = {
        f"LipConvnet-{d}, {CHANNELS.value} channels, initial": lambda d=d: of_depth(int(d)) for d in DEPTHS.value
    }
    if WORKDIR.value:
        results |= {Path(WORKDIR.value).name: lambda: of_run(Path(WORKDIR.value))}
    for name, measure in results.items():
        found = measure()
        print(name, json.dumps(found, indent=1), flush=True)
        if OUTPUT.value:
            path = Path(OUTPUT.value)
            there = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            path.write_text(json.dumps(there | {name: there.get(name, {}) | found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
