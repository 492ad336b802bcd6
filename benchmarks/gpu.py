"""What a GPU makes of lipjax, in one command of at most nine minutes: tests, steps, certificates, rounding.

    python -m benchmarks.gpu --output=benchmarks/results/gpu.json [--seconds=540]
    python -m benchmarks.gpu --smoke [--parts=rounding]              # on a CPU, tiny networks: that the script works
    python -m benchmarks.gpu --render=benchmarks/results/gpu.json

From the root of a clone, with the packages of `pip install -e .`; pytest too, for the last part.  In order, each until
the time is up, a part that fails or is left out says why in the file:

* steps, of twelve programs at a time: first all are compiled, a process each, as many at once as there are cores; then
  nothing runs beside the one that is measured.  Every architecture at its published size, in float32 with products of
  full precision ('highest'), in those of the backend's default (TF32 on NVIDIA's), and in bfloat16; LipConvnet with the
  exact gradient too.  Median of single steps, seconds a step of some in a row, which is what a training takes, and
  temporary memory of the program;
* rounding: the float32 program's features against the float64 program's, beside the proven bound of their distance;
* training: a short one of the digits on the GPU, certified there and on the CPU: predictions and radii of both;
* certificates: images a second, LLN and curvature head;
* tests: operations, rounding and proofs of layers, the sharded step (`pytest`).

Products are left to cuBLAS (XLA_FLAGS below): where XLA tries kernels of Triton for each, a program takes minutes to
compile.
"""

import contextlib
import functools
import importlib.util
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

import lipjax
from experiments.gpu_networks import NETWORKS, config_of
from experiments.times import TimedTraining
from lipjax.configs import digits
from lipjax.training.loop import train
from lipjax.training.recipe import Recipe
from lipjax.workdir import load_trained

OUTPUT = flags.DEFINE_string("output", None, "JSON file to write, after each part.")
RENDER = flags.DEFINE_string("render", None, "Print the tables of this JSON file, and run nothing.")
SECONDS = flags.DEFINE_float("seconds", 540.0, "All parts together; what has not begun by then is left out.")
PARTS = flags.DEFINE_list("parts", [""], "Only the parts in whose names one of these texts is.")
SMOKE = flags.DEFINE_bool("smoke", False, "Tiny networks, and only a few tests.")
TRACE = flags.DEFINE_string(
    "trace", None, "Folder for profiles of three steps of each network in the default precision."
)
STEP = flags.DEFINE_string("step", None, "Compile this step, wait for a line on the standard input, and measure it.")

XLA_FLAGS = "--xla_gpu_enable_triton_gemm=false"
TESTS_FLAGS = "--xla_gpu_autotune_level=0"  # thousands of small programs, each run once: any kernel will do

TESTS = {
    False: [
        "tests/ops",
        "tests/layers/test_rounding.py",
        "tests/layers/test_proof.py",
        "tests/training/test_sharding.py",
    ],
    True: ["tests/ops/test_polynomials.py"],
}
PRECISIONS = {"float32": ("highest", "float32"), "default": ("default", "float32"), "bfloat16": ("default", "bfloat16")}
STEPS, IN_A_ROW = 7, 12
AT_ONCE = 12  # programs that wait on the GPU to be measured: each keeps the memory that its compiler tried kernels in


TINY = {
    "lipconvnet": {"model.init_channels": 4},
    "liresnet": {"model.width": 8, "model.depth": 2, "model.dense_width": 16, "model.dense_depth": 1},
    "bronet": {"model.width": 8, "model.depth": 2, "model.dense_width": 16, "model.dense_depth": 1},
    "lipnext": {"model.width": 32, "model.depth": 2},
}


def tests(seconds: float) -> dict[str, Any]:
    """The last line of pytest, which may take so long, and the names of what failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *TESTS[SMOKE.value]]
    command += ["--tb=short"]
    if importlib.util.find_spec("xdist") and not SMOKE.value:
        command += ["--numprocesses=auto", "--dist=worksteal"]
    # Left unset, the tests take the CPU.
    platforms = ",".join(dict.fromkeys((jax.default_backend().replace("gpu", "cuda"), "cpu")))
    environment = os.environ | {"JAX_PLATFORMS": platforms, "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {TESTS_FLAGS}"}
    late = ""
    with tempfile.TemporaryFile("w+") as written:
        done = subprocess.Popen(command, stdout=written, stderr=subprocess.STDOUT, text=True, env=environment)
        try:
            done.wait(seconds)
        except subprocess.TimeoutExpired:
            late = f"not done after {seconds:.0f} s: "
            done.kill()
            done.wait()
        written.seek(0)
        lines = written.read().strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    if failed or done.returncode:
        print(*lines, sep="\n", file=sys.stderr)
    return {"last": late + "".join(lines[-1:]), "failed": failed}


def random_network(head: str) -> tuple[Any, Any, np.ndarray]:
    """(model, variables, images): LipConvnet-5 with initial weights."""
    channels, hidden = (4, 8) if SMOKE.value else (32, 512)
    model = lipjax.LipConvnet(init_channels=channels, head=head, hidden=hidden)
    images = np.random.default_rng(0).random((64 if SMOKE.value else 2048, 32, 32, 3)).astype(np.float32)
    return model, model.tightened(jax.jit(model.init)(jax.random.key(0), images[:1])), images


@functools.cache
def proven_network(head: str, precision: str) -> Any:
    """`lipjax.prove` of `random_network`, and its images."""
    model, variables, images = random_network(head)
    return lipjax.prove(model, variables, precision=precision), images


def rounding() -> dict[str, Any]:
    """Largest distance of float32 features from float64 ones over the proven bound of it, of 256 images."""
    features, proven = {}, 0.0
    for precision in ("float32", "float64"):
        program, images = proven_network("lln", precision)
        features[precision] = np.asarray(program.features(images[:256]), np.float64)
        proven += program.rounding
    distance = np.linalg.norm(features["float32"] - features["float64"], axis=1).max()
    return {"measured": float(distance), "proven": proven}


def certificates() -> dict[str, Any]:
    """Images a second of both heads, proof and compilation not counted."""
    rates = {}
    for head in ("lln", "crc"):
        proven, images = proven_network(head, "float64")
        labels = proven.predict(images)[0]
        started = time.perf_counter()
        proven.certify(images, labels)
        rates[head] = len(images) / (time.perf_counter() - started)
    return rates


def short_training() -> dict[str, Any]:
    """Digits, trained here, certified here and on the CPU."""
    config = digits.get_config()
    config.run.epochs = 1 if SMOKE.value else 30
    with tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        train(config, place, say=lambda line: None)
        seconds = time.perf_counter() - started
        trained = load_trained(place)
        dataset = trained.dataset(say=lambda line: None)
        images = dataset.test.images.astype(np.float32) / np.float32(dataset.pixel_max)
        here = trained.prove().certify(images, dataset.test.labels)
        with jax.default_device(jax.devices("cpu")[0]):
            there = trained.prove().certify(images, dataset.test.labels)
    difference = np.abs(here.radius - there.radius)
    return {
        "seconds": seconds,
        "certified_at_0.5": float(np.mean(there.radius > 0.5)),
        "same_rivals": float(np.mean(here.rival == there.rival)),
        "largest_difference_of_radii": float(difference.max()),
    }


def step(name: str, precision: str) -> None:
    """Compile the step of a network, say so, and when a line comes in print what it takes."""
    matmul, compute = PRECISIONS[precision]
    changes = {"model.compute_dtype": compute}
    if SMOKE.value:
        changes |= {"run.batch_size": 8, **TINY[config_of(name).model.name]}
    recipe = Recipe.of(config_of(name, **changes))
    with jax.default_matmul_precision(matmul):
        timed = TimedTraining(recipe)
    print("compiled", flush=True)
    sys.stdin.readline()
    timed.step()
    memory = timed.compiled.memory_analysis()
    found = {
        "batch_size": recipe.run.batch_size,
        "seconds": statistics.median([timed.step() for _ in range(3 if SMOKE.value else STEPS)]),
        "seconds_in_a_row": timed.steps_in_a_row(3 if SMOKE.value else IN_A_ROW),
        "temporary_bytes": getattr(memory, "temp_size_in_bytes", None),
    }
    if TRACE.value and precision == "default":
        with jax.profiler.trace(f"{TRACE.value}/{name}, {precision}"):
            timed.steps_in_a_row(3)
    print(json.dumps(found), flush=True)


class Steps:
    """Of some networks, each in a process: compilation takes a minute, and a machine has many cores."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.processes = names, dict[str, subprocess.Popen[str]]()

    def compilation(self) -> dict[str, Any]:
        """Let all compile, for no more than a third of the time of all parts."""
        started, compiled, waiting = time.perf_counter(), set[str](), list(self.names)
        while len(compiled) < len(self.names) and time.perf_counter() - started < SECONDS.value / 3:
            busy = len(self.processes) - len(compiled)
            for name in waiting[: max(len(os.sched_getaffinity(0)) - busy, 0)]:
                self.processes[name] = self._begun(name)
                waiting.remove(name)
            for name, process in self.processes.items():
                assert process.stdout is not None
                if name not in compiled and select.select([process.stdout], [], [], 0)[0]:
                    process.stdout.readline()  # empty where the process has failed, which `step` tells
                    compiled.add(name)
            time.sleep(0.2)
        for name in self.processes.keys() - compiled:
            self.processes.pop(name).kill()
        return {"programs": len(self.names), "done": len(compiled), "seconds": time.perf_counter() - started}

    def _begun(self, name: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "benchmarks.gpu", f"--step={name}", f"--smoke={SMOKE.value}"]
        command += [f"--trace={TRACE.value}"] if TRACE.value else []
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def step(self, name: str) -> dict[str, Any]:
        """Seconds of a step of a network, and what its program needs."""
        if name not in self.processes:
            return {"left_out": "not compiled in time"}
        process = self.processes.pop(name)
        out, _ = process.communicate("\n") if process.poll() is None else ("", None)
        return json.loads(out) if out.strip() else {"error": "its process failed: see above what it wrote"}

    def close(self) -> None:
        """Of processes of steps that were left out."""
        for process in self.processes.values():
            process.kill()


def parts(left: Callable[[], float]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is measured, in order; `left`: seconds."""
    wanted = [f"{name}: {precision}" for name in NETWORKS for precision in PRECISIONS]
    wanted = [name for name in wanted if is_wanted(f"step: {name}")]
    for number, first in enumerate(range(0, len(wanted), AT_ONCE)):
        names = wanted[first : first + AT_ONCE]
        with contextlib.closing(Steps(names)) as steps:
            yield f"compilation {number + 1}", steps.compilation
            for name in names:
                yield f"step: {name}", functools.partial(steps.step, name)
    others: dict[str, Callable[[], Any]] = {
        "rounding": rounding,
        "training": short_training,
        "certificates": certificates,
        "tests": lambda: tests(left()),
    }
    yield from {name: part for name, part in others.items() if is_wanted(name)}.items()


def is_wanted(part: str) -> bool:
    """By the flag --parts."""
    return any(text in part for text in PARTS.value)


def measure() -> dict[str, Any]:
    """All parts; what went wrong in one is in its place."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {XLA_FLAGS}".strip()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    device, started = jax.devices()[0], time.perf_counter()
    result: dict[str, Any] = {
        **{"device": device.device_kind, "platform": device.platform, "smoke": SMOKE.value},
        **{"jax": jax.__version__, "cores": len(os.sched_getaffinity(0)), "parts": {}},
    }

    def left() -> float:
        return SECONDS.value - (time.perf_counter() - started)

    for name, part in parts(left):
        if left() <= 0:
            result["parts"][name] = {"left_out": f"after {SECONDS.value - left():.0f} s"}
        else:
            try:
                result["parts"][name] = part()
            except Exception as error:  # whatever it is, the other parts are wanted
                result["parts"][name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        print(name, json.dumps(result["parts"][name]), flush=True)
        if OUTPUT.value:
            Path(OUTPUT.value).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def render(result: dict[str, Any]) -> str:
    """The tables, with the name of the card."""
    found = result["parts"]
    where = f"{result['device']} ({result['platform']}), jax {result['jax']}"
    lines = [f"On {where}{', tiny networks: no measurement' if result['smoke'] else ''}.", ""]
    lines += [f"{name}: {json.dumps(part)}" for name, part in found.items() if not name.startswith("step")]
    lines += [
        "",
        "| network | images a step | " + " | ".join(f"{name}: ms alone, in a row, MiB" for name in PRECISIONS) + " |",
    ]
    lines.append("|---" * (2 + len(PRECISIONS)) + "|")
    for name in NETWORKS:
        cells = [found.get(f"step: {name}: {precision}", {"left_out": "not run"}) for precision in PRECISIONS]
        sizes = {str(cell["batch_size"]) for cell in cells if "batch_size" in cell}
        lines.append(f"| {name} | {', '.join(sizes)} | " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(lines)


def _cell(part: dict[str, Any]) -> str:
    if "seconds" not in part:
        return str(part.get("error") or part["left_out"])
    memory = part["temporary_bytes"]
    ms = f"{1e3 * part['seconds']:.1f}, {1e3 * part['seconds_in_a_row']:.1f}"
    return f"{ms}, {'?' if memory is None else round(memory / 2**20)}"


def main(argv):
    """Measure, or render."""
    logging.set_verbosity(logging.WARNING)
    if len(argv) > 1:
        sys.exit(f"gpu: unexpected arguments {argv[1:]}; see --help")
    if STEP.value:
        step(*STEP.value.rsplit(": ", 1))
        return
    result = json.loads(Path(RENDER.value).read_text(encoding="utf-8")) if RENDER.value else measure()
    print(render(result))


if __name__ == "__main__":
    app.run(main)
