"""Time of a training step: kernel gradients × polynomials × depths × widths, in the form of the paper's Table 1.

    python benchmarks/step_time.py --output=benchmarks/results/step_time.json
    python benchmarks/step_time.py --render=benchmarks/results/step_time.json
    python benchmarks/step_time.py --variants=manifolds --depths=5,15 --init_channels=8,16   # pooling and activations
    python benchmarks/step_time.py --variants=losses --depths=5 --init_channels=8 --batch_size=128 --steps=31
    python benchmarks/step_time.py --variants=memory --init_channels=32 --batch_size=8       # what remat saves

Random images, LLN and, but for the manifolds, max pooling.  The steps of all variants of a network alternate; the
figures are medians.  Compilation is timed without a persistent cache, on one run.  Memory is the temporary memory of
the compiled step, without its arguments (images, parameters, optimiser state).  A network already in the output is not
run again, so that a long run can be resumed.
"""

import json
import platform
import statistics
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from lipjax.config import default_config
from lipjax.training.recipe import Metrics, Recipe, TrainState, epoch_order, make_train_step

DEPTHS = flags.DEFINE_list("depths", ["5", "10", "20", "40"], "n of LipConvnet-n.")
INIT_CHANNELS = flags.DEFINE_list("init_channels", ["8", "16", "32"], "Channels after the first convolution.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images a step.")
STEPS = flags.DEFINE_integer("steps", 5, "Timed steps of each variant.")
VARIANTS = flags.DEFINE_enum("variants", "layers", ["layers", "manifolds", "losses", "memory"], "What is compared.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file to write or to complete.")
RENDER = flags.DEFINE_string("render", None, "Print the tables of this JSON file, and run nothing.")

# The norm at which the operators are held; LipConvnet's default for degree 4.
POLYNOMIALS = {
    "taylor 6": {"model.polynomial": "taylor", "model.terms": 6},
    "equiripple 3 at 1.4": {"model.polynomial": "equiripple", "model.degree": 3, "model.norm": 1.4},
    "equiripple 4 at 1.9": {"model.polynomial": "equiripple", "model.degree": 4, "model.norm": 1.9},
    "equiripple 5 at 1.9": {"model.polynomial": "equiripple", "model.degree": 5, "model.norm": 1.9},
}
GRADIENTS = ("exact", "fast")
# Name → changes of the default config; the first is what the others are divided by.
COMPARED = {
    "layers": {
        f"{polynomial}, {gradient}": {**keys, "model.gradient": gradient}
        for polynomial, keys in POLYNOMIALS.items()
        for gradient in GRADIENTS
    },
    "manifolds": {
        "max": {},
        "cone": {"model.pooling": "projection"},
        "polyline, 4 vertices": {"model.pooling": "polyline"},
        "polyline, 9 vertices (8 segments)": {"model.pooling": "polyline", "model.pool_vertices": 9},
        "point": {"model.pooling": "point"},
        "Householder": {"model.activation": "householder"},
        "Householder, order 2": {"model.activation": "householder2"},
    },
    "losses": {
        "cross entropy": {},
        "offset": {"loss.name": "offset"},
        "EMMA": {"loss.name": "emma"},
        "EMMA, learned scale": {"loss.name": "emma", "loss.trainable_scale": True},
        "logit annealing": {"loss.name": "logit_annealing"},
        "hinge-KR": {"loss.name": "hinge_kr"},
    },
    "memory": {
        "all kept": {},
        "blocks computed again": {"model.remat": True},
        "bfloat16": {"model.compute_dtype": "bfloat16"},
        "bfloat16, blocks computed again": {"model.compute_dtype": "bfloat16", "model.remat": True},
    },
}


def main(_):
    if RENDER.value:
        print(render(json.loads(Path(RENDER.value).read_text(encoding="utf-8"))))
        return
    path = Path(OUTPUT.value) if OUTPUT.value else None
    result = (
        json.loads(path.read_text(encoding="utf-8"))
        if path and path.exists()
        else {"machine": machine(), "networks": []}
    )
    done = {(network["depth"], network["init_channels"]) for network in result["networks"]}
    for channels in map(int, INIT_CHANNELS.value):
        for depth in map(int, DEPTHS.value):
            if (depth, channels) in done:
                continue
            result["networks"].append(measure(depth, channels))
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            print(render({**result, "networks": result["networks"][-1:]}), flush=True)


def machine() -> dict:
    return {"backend": jax.default_backend(), "devices": len(jax.devices()), "processor": platform.processor()}


def measure(depth: int, channels: int) -> dict:
    batch = BATCH_SIZE.value
    rng = np.random.default_rng(0)
    images = jax.numpy.asarray(rng.integers(0, 256, (2 * batch, 32, 32, 3), dtype=np.uint8))
    labels = jax.numpy.asarray(rng.integers(0, 10, 2 * batch))
    order = epoch_order(0, 1, len(labels), batch)
    variants, runs = {}, {}
    for name, keys in COMPARED[VARIANTS.value].items():
        config = default_config()
        config.update_from_flattened_dict({"model.depth": depth, "model.init_channels": channels, **keys})
        model = Recipe.of(config).model((32, 32, 3), 10)
        optimizer = Recipe.of(config).optimizer.transformation(model, 390 * Recipe.of(config).run.epochs)
        state, metrics = random_state(model, optimizer, Recipe.of(config).loss.parameters(), rng), Metrics.zero()
        step = make_train_step(model, optimizer, Recipe.of(config), pixel_max=255)
        started = time.perf_counter()
        compiled = step.lower(state, metrics, images, labels, order).compile()
        variants[name] = {
            "compile_seconds": time.perf_counter() - started,
            "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
            "defect": defect(model),
        }
        runs[name] = [compiled, jax.block_until_ready(compiled(state, metrics, images, labels, order))]
    seconds = {name: [] for name in runs}
    for _ in range(STEPS.value):
        for name, run in runs.items():
            started = time.perf_counter()
            run[1] = jax.block_until_ready(run[0](*run[1], images, labels, order))
            seconds[name].append(time.perf_counter() - started)
    for name, times in seconds.items():
        variants[name]["seconds"] = statistics.median(times)
        variants[name]["steps"] = len(times)
    return {"depth": depth, "init_channels": channels, "batch_size": batch, "variants": variants}


def random_state(model, optimizer, beside, rng) -> TrainState:
    """A state of the right shapes with small random numbers: jitted initialisation would take longer than the steps."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))

    def draw(leaf):
        scale = max(leaf.shape[-1] if leaf.shape else 1, 1) ** -0.5
        return jax.numpy.asarray(scale * rng.standard_normal(leaf.shape), leaf.dtype)

    params = jax.tree.map(draw, dict(shapes["params"]))
    spectral = jax.tree.map(lambda leaf: jax.numpy.full(leaf.shape, 1 / max(leaf.size, 1) ** 0.5), shapes["spectral"])
    state = TrainState(jax.numpy.zeros((), int), params, dict(spectral), (), beside)
    return state._replace(opt_state=optimizer.init(state.trained()))


def defect(model) -> float:
    """1 − min |p(it)| / max |p(it)|, up to the norm held; for Taylor up to 2, where trained kernels are."""
    lowest, highest = model.polynomial.gain(model.polynomial.norm or 2.0)
    return 1 - lowest / highest


def render(result: dict) -> str:
    """Markdown: the ratios of all networks in one table, then one table for each network."""
    networks = sorted(result["networks"], key=lambda network: (network["init_channels"], network["depth"]))
    lines = summary(networks) if len(networks) > 1 else []
    for network in networks:
        variants = network["variants"]
        baseline, steps = next((name, v["steps"]) for name, v in variants.items())
        lines += [
            f"{title(network)}, batch {network['batch_size']}, median of {steps} steps:",
            "",
            f"| | s/step | ÷ {baseline} | images/s | compile s | temporary MB | defect |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, v in variants.items():
            lines.append(
                f"| {name} | {v['seconds']:.3f} | {ratio(network, name):.2f} | "
                f"{network['batch_size'] / v['seconds']:.0f} | {v['compile_seconds']:.0f} | "
                f"{v['temporary_bytes'] / 2**20:.0f} | {v['defect']:.1e} |"
            )
        lines.append("")
    return "\n".join(lines)


def summary(networks: list[dict]) -> list[str]:
    """Lines of a table with a row for each network: the baseline's seconds, and the others divided by it."""
    baseline, *others = networks[0]["variants"]
    lines = [" | ".join(["| network", f"{baseline}: s/step", *others]) + " |", "|---" * (len(others) + 2) + "|"]
    for network in networks:
        seconds = network["variants"][baseline]["seconds"]
        ratios = [f"{ratio(network, name):.2f}" for name in others]
        lines.append(" | ".join([f"| {title(network)}", f"{seconds:.3f}", *ratios]) + " |")
    return [*lines, ""]


def title(network: dict) -> str:
    return f"LipConvnet-{network['depth']}, {network['init_channels']} channels"


def ratio(network: dict, name: str) -> float:
    """Seconds of a variant over those of the first one."""
    first, *_ = network["variants"].values()
    return network["variants"][name]["seconds"] / first["seconds"]


if __name__ == "__main__":
    app.run(main)
