"""What it is worth on a CPU that freed memory is kept (`lipjax.system.memory.keep_freed`), as every command does.

    python -m benchmarks.freed_memory --output=benchmarks/results/freed_memory.json

Steps of networks in training on random images, batch 128, each in a process of its own, with and without in turns.  The
figures are medians over the processes of their medians; page faults a step; the largest memory of the process.
"""

import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path

from absl import app, flags

from experiments.cells import Cell
from experiments.recipes import BEST, NETWORKS
from experiments.times import TimedTraining
from lipjax.system import compilation, memory
from lipjax.training.recipe import Recipe

NETWORKS_TIMED = {
    "LipConvnet-5, 8 channels": BEST["lipjax 0.1, U"],
    "LiResNet, 4 × 32, curvature head": NETWORKS["LiResNet, curvature head"],
    "LiResNet, 4 × 64, curvature head": BEST["LiResNet, 4 layers of 64 channels, curvature head, ε = 72/255, 10 U"],
    "LipNeXt, 8 × 128": NETWORKS["LipNeXt, 8 blocks of 128 channels"],
}
STEPS = flags.DEFINE_integer("steps", 12, "Timed steps of a process.")
REPEATS = flags.DEFINE_integer("repeats", 3, "Processes of each kind.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
_OF = flags.DEFINE_enum("network", None, list(NETWORKS_TIMED), "Time this one in this process, and print JSON.")
_KEPT = flags.DEFINE_bool("kept", True, "With --network: keep what is freed.")


def main(_):
    if _OF.value:
        print(json.dumps(measured(NETWORKS_TIMED[_OF.value], _KEPT.value)))
        return
    results = {}
    for network in NETWORKS_TIMED:
        runs = [{kept: in_a_process(network, kept) for kept in (True, False)} for _ in range(REPEATS.value)]
        results[network] = {
            name: {key: statistics.median(run[kept][key] for run in runs) for key in runs[0][kept]}
            for name, kept in (("kept", True), ("given back", False))
        }
        kept, given = results[network]["kept"], results[network]["given back"]
        print(
            f"| {network} | {1e3 * kept['seconds']:.0f} | {1e3 * given['seconds']:.0f} | "
            f"{given['seconds'] / kept['seconds']:.2f} | {kept['faults']:.0f} | {given['faults']:.0f} | "
            f"{kept['bytes'] / 1e6:.0f} | {given['bytes'] / 1e6:.0f} |",
            flush=True,
        )
    if OUTPUT.value:
        Path(OUTPUT.value).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def in_a_process(network: str, kept: bool) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.freed_memory", f"--network={network}", f"--kept={kept}"]
    done = subprocess.run([*command, f"--steps={STEPS.value}"], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(changes, kept: bool) -> dict[str, float]:
    compilation.use_cache()
    if kept and not memory.keep_freed():
        sys.exit("freed_memory: this C library has no mallopt")
    training = TimedTraining(Recipe.of(Cell("small", changes, 0).config()))
    training.steps_in_a_row(2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    seconds = statistics.median(training.step() for _ in range(STEPS.value))
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": seconds,
        "faults": (after.ru_minflt - before) / STEPS.value,
        "bytes": 1024 * after.ru_maxrss,
    }


if __name__ == "__main__":
    app.run(main)
