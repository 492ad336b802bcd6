"""Time and memory of the proof of networks for 224×224 images: LiResNet as published for ImageNet, and LipNeXt.

    python benchmarks/large_images.py --output=benchmarks/results/large_images.json [--networks=liresnet --width=588]
    python benchmarks/large_images.py --render=benchmarks/results/large_images.json

1000 classes, patches of 14, so 16×16 pixels.  LiResNet (Hu et al., NeurIPS 2023): 12 convolutions of 588 channels, a
neck of 4×4, 8 dense layers of 2048.  LipNeXt (arXiv 2601.18513): 32 blocks of 1024 channels.  Weights are random;
kernels of the trunk are enlarged to N(0, 1/(k² C)), so that a layer is an identity and a noise of norm 0.6 whose
symbols have the same norm at all frequencies: the hardest case for the search of a bound.  Each network in a process of
its own, of which the peak is taken; `prove` is the bound, `rounding` one image in float64 and the bound E of its
rounding.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import lipjax
from lipjax.models.lipnext import lipnext
from lipjax.models.liresnet import liresnet

NETWORKS = flags.DEFINE_list("networks", ["liresnet", "lipnext"], "Which.")
WIDTH = flags.DEFINE_integer("width", None, "Channels; None: as above.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file to write or to complete.")
RENDER = flags.DEFINE_string("render", None, "Print the table of this JSON file, and run nothing.")

SHAPE, CLASSES = (224, 224, 3), 1000
WIDTHS = {"liresnet": 588, "lipnext": 1024}


def network(name: str, width: int):
    if name == "lipnext":
        return lipnext(SHAPE, CLASSES, width=width, depth=32, patch=14)
    return liresnet(
        SHAPE, CLASSES, width=width, depth=12, stem_kernel_size=14, stem_stride=14, dense_width=2048, dense_depth=8
    )


def random_variables(model):
    """As at the start of training, without a compiled forward pass; kernels of the trunk at N(0, 1/(k² C))."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, *SHAPE), np.float32))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("rotation", "mixing", "matrix") and path[0].key == "params":
            columns = np.linalg.qr(rng.standard_normal((max(leaf.shape), min(leaf.shape))))[0]
            return jnp.asarray(columns if leaf.shape[0] >= leaf.shape[1] else columns.T, leaf.dtype)
        if name == "gain":
            return jnp.ones(leaf.shape, leaf.dtype)
        if name in ("bias", "mean", "position"):
            return jnp.zeros(leaf.shape, leaf.dtype)
        scale = 1.0 if path[0].key == "spectral" else np.prod(leaf.shape[:-1]) ** -0.5
        drawn = scale * rng.standard_normal(leaf.shape, np.float32)
        return jnp.asarray(drawn / (np.linalg.norm(drawn) if name == "image" else 1), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def measure(name: str, width: int) -> dict:
    seconds, processor = {}, {}

    def timed(phase, function):
        wall, cpu = time.perf_counter(), time.process_time()
        result = jax.block_until_ready(function())
        seconds[phase], processor[phase] = time.perf_counter() - wall, time.process_time() - cpu
        return result

    model = network(name, width)
    variables = timed("make", lambda: random_variables(model))
    variables = timed("tighten", lambda: model.tightened(variables))
    proven = timed("prove", lambda: lipjax.prove(model, variables))
    rounding = timed("rounding", lambda: proven.rounding)
    return {
        "network": name,
        "width": width,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        "seconds": seconds,
        "processor_seconds": processor,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "lipschitz_bound": proven.lipschitz_bound,
        "rounding": rounding,
        "load": os.getloadavg()[1],
        "cores": len(os.sched_getaffinity(0)),
    }


def render(rows: list[dict]) -> str:
    lines = ["| network | parameters | tighten | prove | with rounding | peak | bound | rounding E |", "|---" * 8 + "|"]
    for row in rows:
        seconds = row["seconds"]
        lines.append(
            f"| {row['network']}, {row['width']} channels | {row['parameters'] / 1e6:.0f}M "
            f"| {seconds['tighten']:.0f} s | {seconds['prove']:.0f} s | {seconds['prove'] + seconds['rounding']:.0f} s "
            f"| {row['peak_bytes'] / 1e9:.1f} GB | {row['lipschitz_bound']:.6g} | {row['rounding']:.1e} |"
        )
    return "\n".join(lines)


def main(_):
    if RENDER.value:
        print(render(json.loads(Path(RENDER.value).read_text(encoding="utf-8"))["networks"]))
        return
    if len(NETWORKS.value) == 1 and OUTPUT.value == "-":  # in a process of its own
        name = NETWORKS.value[0]
        print(json.dumps(measure(name, WIDTH.value or WIDTHS[name])))
        return
    path = Path(OUTPUT.value) if OUTPUT.value else None
    rows = json.loads(path.read_text(encoding="utf-8"))["networks"] if path and path.exists() else []
    for name in NETWORKS.value:
        width = WIDTH.value or WIDTHS[name]
        own = [sys.executable, __file__, f"--networks={name}", f"--width={width}", "--output=-"]
        row = json.loads(subprocess.run(own, check=True, stdout=subprocess.PIPE, text=True).stdout)
        rows = [other for other in rows if (other["network"], other["width"]) != (name, width)] + [row]
        if path:
            path.write_text(json.dumps({"networks": rows}, indent=1) + "\n", encoding="utf-8")
        print(render([row]), flush=True)


if __name__ == "__main__":
    app.run(main)
