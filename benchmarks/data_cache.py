"""Seconds to load a prepared dataset: decoded anew, and from the cache of decoded arrays (lipjax/data/named.py).

    python benchmarks/data_cache.py --data_dir=DIR [--dataset=cifar10 --repeats=3]

Both alternate; medians.  The cache lies in a folder of its own; importing tensorflow-datasets is not timed.
"""

import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import tensorflow_datasets  # noqa: F401
from absl import app, flags, logging

from lipjax.data import load

DATASET = flags.DEFINE_string("dataset", "cifar10", "A tensorflow-datasets name.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where it is prepared.")
REPEATS = flags.DEFINE_integer("repeats", 3, "Loads of each kind.")


def main(_):
    logging.set_verbosity(logging.WARNING)
    seconds: dict[str, list[float]] = {"decoded": [], "cached": []}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        for _ in range(REPEATS.value):
            shutil.rmtree(Path(cache) / "lipjax", ignore_errors=True)
            for times in seconds.values():
                started = time.perf_counter()
                load(DATASET.value, DATA_DIR.value)
                times.append(time.perf_counter() - started)
        size = sum(path.stat().st_size for path in Path(cache).rglob("*") if path.is_file())
    decoded, cached = map(statistics.median, seconds.values())
    print(f"{DATASET.value}: decoded {decoded:.1f} s, cached {cached:.2f} s; {size >> 20} MiB")


if __name__ == "__main__":
    app.run(main)
