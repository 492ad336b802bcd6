"""Curvature bounds of a head of many classes: seconds, memory, and what the certificates of its images ask for.

    python benchmarks/curvature.py --classes=1000 --hidden=4096 --width=512 --num_examples=1000 [--file=curvature.npz]

Of random weights: seconds of the cheap bounds of all pairs and of the tight one of a pair, both as `CurvatureCache`
computes them, how far apart they are, and the most memory that the process has had.  With --num_examples, of the head
that `certify_head.py` trains on synthetic features, and then: the seconds that certificates of so many images take (the
predicted class of each), how many pairs ask for a tight bound, and the seconds of those.  With --file it may be
interrupted and goes on.
"""

import os
import resource
import time

import numpy as np
from absl import app, flags
from certify_head import CLASSES, HIDDEN, NUM_EXAMPLES, WIDTH, synthetic

from lipjax.certificates.crc import certify_crc
from lipjax.certificates.curvature_cache import CurvatureCache
from lipjax.system import compilation

FILE = flags.DEFINE_string("file", None, "Where bounds are kept.")
STEPS = flags.DEFINE_integer("steps", 300, "Training steps of the synthetic head.")
SAMPLE = 40  # pairs of which the tight bound is timed


class Timed(CurvatureCache):
    """Counts pairs and seconds of the tight bounds."""

    pairs, seconds = 0, 0.0

    def tight(self, pairs):
        started, known = time.perf_counter(), np.isfinite(self._tight).sum()
        values = super().tight(pairs)
        self.pairs += int(np.isfinite(self._tight).sum() - known)
        self.seconds += time.perf_counter() - started
        return values


def main(_):
    compilation.use_cache()
    classes, hidden, width = CLASSES.value, HIDDEN.value, WIDTH.value
    count = NUM_EXAMPLES.value if flags.FLAGS["num_examples"].present else 0
    print(f"{classes} classes × {hidden} hidden units × {width} features, {os.cpu_count()} cores, load", end=" ")
    print(f"{os.getloadavg()[0]:.1f}; {'synthetic features' if count else 'random weights'}, seed 0", flush=True)
    if count:
        features, head, _ = synthetic(classes, hidden, width, count, STEPS.value)
    else:
        rng = np.random.default_rng(0)
        head = {"w1": rng.normal(size=(hidden, width)), "w2": rng.normal(size=(classes, hidden))}
    cache = Timed(FILE.value, head["w1"], head["w2"])
    started = time.perf_counter()
    cheap = cache.bounds()
    print(f"cheap bounds of all pairs: {time.perf_counter() - started:.1f} s, {memory()}", flush=True)
    if count:
        return certified(cache, features, head)
    pairs = np.random.default_rng(1).permutation(np.argwhere(~np.eye(classes, dtype=bool)))[:SAMPLE]
    ratio = cheap[tuple(pairs.T)] / cache.tight(pairs)
    print(f"tight: {cache.seconds / max(cache.pairs, 1) * 1e3:.1f} ms a pair; cheap / tight: mean {ratio.mean():.2f}")


def certified(cache: Timed, features, head) -> None:
    hidden = np.logaddexp(0, features @ head["w1"].T + head["b1"])
    logits = hidden @ head["w2"].T + head["b2"]
    started = time.perf_counter()
    found = certify_crc(features, head, np.argmax(logits, axis=1), curvature=cache)
    seconds = time.perf_counter() - started
    print(
        f"{len(features)} images in {seconds:.1f} s; tight bounds of {cache.pairs} pairs: {cache.seconds:.1f} s of them"
    )
    print(f"exact {found.exact.mean():.2%}, mean radius {found.radius.mean():.4f} in feature space, {memory()}")


def memory() -> str:
    return f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB"


if __name__ == "__main__":
    app.run(main)
