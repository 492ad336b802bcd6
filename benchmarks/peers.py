"""LipConvnet here and with the convolutions of others: a training step and a certification, in turns in one process.

    pip install 'lipjax[peers]'
    python -m benchmarks.peers --output=benchmarks/results/peers.json [--depth=5 --init_channels=16 --batch_size=64]
    python -m benchmarks.peers --output=FILE --init_channels=32 --batch_size=128 --in_a_row=12      # on a GPU
    python -m benchmarks.peers --render=benchmarks/results/peers.json

One architecture (paper, Table 2), LLN, max pooling, SGD with momentum, cross entropy, random images; only the
convolutions differ.  In PyTorch: the authors' layer, written anew from the paper's formulas, with the exact and with
the fast gradient (Taylor, 6 terms; kernels over the least of four norms, one power step each a step); AOC and adaptive
SOC of orthogonium; the spectral convolution of deel-torchlip.  1×1 convolutions are matrices there, as everywhere.
Here: the paper's layer, and the default.  Medians of wall time, with all cores or, where PyTorch and jax see one, on a
GPU, both with products in TF32; ratios are of the authors' fast step.

Certification is what each program does to a batch: features and margins in float32 by 15 terms (authors) and by the
layer itself (others); here in float64, with rounding taken off.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F
from absl import app, flags
from torch import nn

import lipjax
from experiments.times import TimedTraining
from lipjax import ops
from lipjax.config import default_config
from lipjax.models.lipconvnet_steps import ConvStep, architecture
from lipjax.training.recipe import Recipe

DEPTH = flags.DEFINE_integer("depth", 5, "n of LipConvnet-n.")
INIT_CHANNELS = flags.DEFINE_integer("init_channels", 16, "Channels after the first convolution.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images a step.")
STEPS = flags.DEFINE_integer("steps", 7, "Timed turns of each.")
IN_A_ROW = flags.DEFINE_integer("in_a_row", 1, "Steps of a turn; a GPU is waited for at its end.")
PEERS = flags.DEFINE_list("peers", ["authors exact", "authors fast", "AOC", "adaptive SOC", "torchlip"], "Which.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
RENDER = flags.DEFINE_string("render", None, "Print the table of this JSON file, and run nothing.")

OURS = {
    "lipjax, as the paper": {"model.polynomial": "taylor", "model.terms": 6, "model.eval_terms": 15},
    "lipjax, default": {},
}
BASE = "authors fast"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def series(x: torch.Tensor, kernel: torch.Tensor, terms: int) -> torch.Tensor:
    """Σ A^k x / k!, A the zero-padded convolution with the kernel (O, I, k, k)."""
    total = term = x
    for k in range(1, terms):
        term = F.conv2d(term, kernel, padding=kernel.shape[-1] // 2) / k
        total = total + term
    return total


class FastSeries(torch.autograd.Function):
    """The series, with the input's exact gradient, that of −A, and the paper's kernel gradient (its equation 5)."""

    @staticmethod
    def forward(ctx, x, kernel, terms):
        ctx.terms = terms
        inner = series_from(x, kernel, terms, 1)
        ctx.save_for_backward(inner, kernel)
        return x + F.conv2d(inner, kernel, padding=kernel.shape[-1] // 2)

    @staticmethod
    def backward(ctx, gradient):
        inner, kernel = ctx.saved_tensors
        outer = series_from(gradient, -kernel, ctx.terms, 1)
        padding = kernel.shape[-1] // 2
        to_kernel = torch.nn.grad.conv2d_weight(inner, kernel.shape, outer, padding=padding)
        return gradient + F.conv2d(outer, -kernel, padding=padding), to_kernel, None


def series_from(x: torch.Tensor, kernel: torch.Tensor, terms: int, first: int) -> torch.Tensor:
    """u with p(A) x = x + A u: Σ over k >= first of A^(k − 1) x / k!, nested."""
    u = x
    for k in range(terms - 1, first, -1):
        u = x + F.conv2d(u, kernel, padding=kernel.shape[-1] // 2) / k
    return u


class SkewConv(nn.Module):
    """The authors' layer: a skew kernel over the least of its four norms, and a series of 6 terms, 15 in evaluation."""

    def __init__(self, in_channels: int, features: int, kernel_size: int, fast: bool):
        super().__init__()
        self.width, self.features, self.fast = max(in_channels, features), features, fast
        self.kernel = nn.Parameter(torch.randn(self.width, self.width, kernel_size, kernel_size) / self.width**0.5)
        self.bias = nn.Parameter(torch.zeros(features))
        self.vectors = [torch.randn(matrix.shape[1], device=DEVICE) for matrix in self.matrices(self.kernel)]

    @staticmethod
    def matrices(kernel: torch.Tensor) -> list[torch.Tensor]:
        """(O k, I k) twice, (O, I k k) and (O k k, I)."""
        o, i, h, w = kernel.shape
        parts = [kernel.permute(0, 2, 1, 3).reshape(o * h, i * w), kernel.permute(0, 3, 1, 2).reshape(o * w, i * h)]
        return [*parts, kernel.reshape(o, -1), kernel.permute(0, 2, 3, 1).reshape(-1, i)]

    def normalised(self) -> torch.Tensor:
        """L over the least of four norms, each by a power step from where the last left it."""
        skew = (self.kernel - self.kernel.transpose(0, 1).flip(2, 3)) / 2
        norms = []
        for index, matrix in enumerate(self.matrices(skew)):
            with torch.no_grad():
                left = F.normalize(matrix @ self.vectors[index], dim=0)
                self.vectors[index] = F.normalize(matrix.T @ left, dim=0)
            norms.append(left @ matrix @ self.vectors[index])
        return skew / torch.stack(norms).min()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, I, H, W) → (N, O, H, W)."""
        kernel = self.normalised()
        x = F.pad(x, (0, 0, 0, 0, 0, self.width - x.shape[1]))
        if not self.training:
            y = series(x, kernel, 15)
        else:
            y = FastSeries.apply(x, kernel, 6) if self.fast else series(x, kernel, 6)
        return y[:, : self.features] + self.bias[:, None, None]


def convolution(peer: str, step: ConvStep) -> nn.Module:
    """The convolution of a peer for one of the network's."""
    shape = step.in_channels, step.features, step.kernel_size
    if peer.startswith("authors"):
        return SkewConv(*shape, fast=peer == "authors fast")
    if peer == "torchlip":
        from deel.torchlip import SpectralConv2d

        return SpectralConv2d(*shape, padding=step.kernel_size // 2, padding_mode="zeros")
    if peer == "AOC":
        from orthogonium.layers.conv.AOC import AdaptiveOrthoConv2d as Convolution
    else:
        from orthogonium.layers.conv.adaptiveSOC import AdaptiveSOCConv2d as Convolution
    return Convolution(*shape, padding="same", padding_mode="zeros")


class LipConvnet(nn.Module):
    """The architecture with a peer's convolutions; MaxMin or max pooling of channel halves, LLN."""

    def __init__(self, peer: str):
        super().__init__()
        self.steps = architecture(DEPTH.value, INIT_CHANNELS.value, 32, 3, pool_last=True)
        self.convolutions = nn.ModuleList(convolution(peer, step) for step in self.steps)
        width = self.steps[-1].features // 2
        self.weight, self.bias = nn.Parameter(torch.randn(10, width) / width**0.5), nn.Parameter(torch.zeros(10))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, 32, 32) → (N, D)."""
        for step, layer in zip(self.steps, self.convolutions, strict=True):
            x = layer(F.pixel_unshuffle(x, 2) if step.rearrange else x)
            a, b = x.chunk(2, 1)
            most = torch.maximum(a, b)
            x = most if step.pool else torch.cat([most, torch.minimum(a, b)], 1)
        return x.flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return self.features(x) @ F.normalize(self.weight, dim=1).T + self.bias


def peer_runs(peer: str, images: np.ndarray, labels: np.ndarray) -> dict[str, Callable[[], Any]]:
    """A training step and a certification of a batch."""
    torch.manual_seed(0)
    model, x, y = LipConvnet(peer).to(DEVICE), torch.from_numpy(images).to(DEVICE), torch.from_numpy(labels).to(DEVICE)
    x = x.permute(0, 3, 1, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step():
        model.train()
        for _ in range(IN_A_ROW.value):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    @torch.no_grad()
    def certify():
        model.eval()
        logits, rows = model(x), F.normalize(model.weight, dim=1)
        best = logits.argmax(1)
        gaps = (rows[best][:, None] - rows).norm(dim=-1)
        margins = (logits.gather(1, best[:, None]) - logits) / gaps
        return margins.masked_fill(gaps == 0, float("inf")).min(1).values

    return {"step": step, "certify": certify}


def own_runs(changes: dict[str, Any], images: np.ndarray, labels: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The same of lipjax; a training step has crop and flip in it too."""
    config = default_config()
    network = {"model.patch": 1, "model.depth": DEPTH.value, "model.init_channels": INIT_CHANNELS.value}
    with config.ignore_type():
        config.update_from_flattened_dict({**network, **changes, "run.batch_size": BATCH_SIZE.value})
    config.loss = {"name": "cross_entropy"}
    timed = TimedTraining(Recipe.of(config))
    polynomials = {"polynomial": ops.taylor(6), "eval_polynomial": ops.taylor(15)} if changes else {}
    model = lipjax.LipConvnet(DEPTH.value, INIT_CHANNELS.value, **polynomials)
    proven = lipjax.prove(model, model.tightened(jax.jit(model.init)(jax.random.key(0), images[:1])))
    return {"step": lambda: timed.steps_in_a_row(IN_A_ROW.value), "certify": lambda: proven.certify(images, labels)}


def measure() -> dict[str, Any]:
    """Medians of seconds, all in turns."""
    rng = np.random.default_rng(0)
    images = rng.random((BATCH_SIZE.value, 32, 32, 3)).astype(np.float32)
    labels = rng.integers(0, 10, BATCH_SIZE.value)
    runs = {peer: peer_runs(peer, images, labels) for peer in PEERS.value}
    runs |= {name: own_runs(changes, images, labels) for name, changes in OURS.items()}
    seconds: dict[str, dict[str, list[float]]] = {name: {"step": [], "certify": []} for name in runs}
    for turn in range(STEPS.value + 1):
        for name, kinds in runs.items():
            for kind, run in kinds.items():
                started = time.perf_counter()
                run()
                if DEVICE.type == "cuda":
                    torch.cuda.synchronize()
                if turn:  # the first warms up
                    seconds[name][kind].append(time.perf_counter() - started)
    count = {"step": IN_A_ROW.value, "certify": 1}
    medians = {
        n: {kind: statistics.median(s) / count[kind] for kind, s in kinds.items()} for n, kinds in seconds.items()
    }
    machine = {"cores": len(os.sched_getaffinity(0)), "torch": torch.__version__, "jax": jax.__version__}
    machine["device"] = jax.devices()[0].device_kind
    network = {"depth": DEPTH.value, "init_channels": INIT_CHANNELS.value, "batch_size": BATCH_SIZE.value}
    return {**network, "machine": machine, "load": os.getloadavg()[0], "seconds": medians}


def render(result: dict[str, Any]) -> str:
    """The table."""
    head = f"LipConvnet-{result['depth']}, {result['init_channels']} channels, {result['batch_size']} images"
    digits = 2 if result["machine"].get("device", "cpu") == "cpu" else 4
    lines = [f"| {head} | s/step | of the authors' fast | s/certification | of the authors' |", "|---" * 5 + "|"]
    base = result["seconds"][BASE]
    for name, found in result["seconds"].items():
        cells = [f"{found[kind]:.{digits}f} | {found[kind] / base[kind]:.2f}" for kind in ("step", "certify")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(_):
    """Measure, or render."""
    if RENDER.value:
        print(render(json.loads(Path(RENDER.value).read_text(encoding="utf-8"))))
        return
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as its convolutions have it and jax by default
    torch.backends.cudnn.benchmark = True
    result = measure()
    if OUTPUT.value:
        Path(OUTPUT.value).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(render(result))


if __name__ == "__main__":
    app.run(main)
