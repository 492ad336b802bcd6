"""A training step of LiResNet and LipNeXt against one of a PyTorch twin of the same network, on a CPU or a GPU.

    pip install 'lipjax[peers]'
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python benchmarks/torch_twin.py --output=benchmarks/results/torch_twin.json
    python benchmarks/torch_twin.py --output=benchmarks/results/torch_twin_gpu.json --in_a_row=12 \
        --networks=liresnet,lipnext,liresnet_published,lipnext_published
    python benchmarks/torch_twin.py --render=benchmarks/results/torch_twin.json

Networks and losses of configs/{liresnet,lipnext}_cifar10_small.py, or of those of the published sizes in float32, with
LLN and NAdam, without augmentation, on random images; the twin is written here from the formulas. First logits, loss
and gradients of both are compared in float64, from the same weights; then steps alternate in one process: forward,
backward, clipping, NAdam, Lookahead, norms of kernels, nearest orthonormal matrices. Medians of wall and of processor
time. Activations of PyTorch are in the order that its convolutions like on a CPU (channels last); it runs eagerly, as
such programs are run. On a GPU, where both see one, products are in TF32 in both.
"""

import json
import math
import os
import statistics
import time
from pathlib import Path

import jax
import numpy as np
import torch
import torch.nn.functional as F
from absl import app, flags

from lipjax.config import default_config
from lipjax.configs import lipnext_cifar10, lipnext_cifar10_small, liresnet_cifar10, liresnet_cifar10_small
from lipjax.models.lipconvnet import CIFAR_MEAN
from lipjax.ops.general_conv import KRYLOV
from lipjax.training.losses import Moment
from lipjax.training.recipe import Metrics, Recipe, epoch_order, initial_state, make_train_step

NETWORKS = flags.DEFINE_list("networks", ["liresnet", "lipnext"], "Which.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Images a step.")
STEPS = flags.DEFINE_integer("steps", 7, "Timed turns of each.")
IN_A_ROW = flags.DEFINE_integer("in_a_row", 1, "Steps of a turn; a GPU is waited for at its end.")
OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
RENDER = flags.DEFINE_string("render", None, "Print the table of this JSON file, and run nothing.")

CONFIGS = {
    **{"liresnet": liresnet_cifar10_small, "lipnext": lipnext_cifar10_small},
    **{"liresnet_published": liresnet_cifar10, "lipnext_published": lipnext_cifar10},
}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOTAL = 5850  # steps of the run that schedule and ramp are taken from
COMPARED = 16  # images


def max_min(x, axis):
    a, b = x.chunk(2, axis)
    return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], axis)


class Network:
    """What the twins share: parameters by name, EMMA of their logits, NAdam with clipping and Lookahead."""

    def __init__(self, recipe, params, spectral):
        self.recipe, self.values = recipe, {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            name = "/".join(key.key for key in path)
            array = np.array(leaf)
            value = torch.from_numpy(array.transpose(3, 2, 0, 1).copy() if array.ndim == 4 else array)
            self.values[name] = value.to(DEVICE).requires_grad_()
        self.images = {name: tree["image"] for name, tree in spectral.items() if "image" in tree}
        self.images = {name: torch.from_numpy(np.array(image)).to(DEVICE) for name, image in self.images.items()}
        self.first, self.second = ([torch.zeros_like(v) for v in self.values.values()] for _ in range(2))
        self.slow = [value.detach().clone() for value in self.values.values()]
        self.tops, self.count = {}, 0

    def bound(self):
        """The estimate of the Lipschitz constant, differentiable."""
        return 1.0

    def loss(self, x, labels):
        """(EMMA, logits)."""
        loss = self.recipe.loss
        features = self.features(x)
        rows = F.normalize(self.values["head/weight"], dim=1, eps=0)
        logits = features @ rows.T + self.values["head/bias"]
        grown = min(self.count / TOTAL / loss.ramp, 1)
        epsilon = loss.epsilon * (loss.start + (1 - loss.start) * grown)
        squares = ((rows[labels][:, None] - rows) ** 2).sum(-1)
        lengths = torch.where(squares > 0, torch.where(squares > 0, squares, 1.0).sqrt(), 0.0)
        drop = epsilon * self.bound() * lengths
        with torch.no_grad():
            margin = logits.gather(1, labels[:, None]) - logits
            raised = (margin / drop.clamp(min=torch.finfo(drop.dtype).tiny)).clamp(0.01, 1)
        scale = self.values["loss/log_scale"].exp() if loss.trainable_scale else 1.0
        return F.cross_entropy(scale * (logits + raised * drop), labels), logits

    def gradients(self, x, labels):
        loss, logits = self.loss(x, labels)
        return loss, logits, torch.autograd.grad(loss, list(self.values.values()))

    def step(self, x, labels):
        """Gradient, clipped; NAdam (Dozat) as optax has it; Lookahead; back to where parameters belong."""
        loss, _, gradients = self.gradients(x, labels)
        options = self.recipe.optimizer.options
        with torch.no_grad():
            gradients, values = list(gradients), list(self.values.values())
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            torch._foreach_mul_(gradients, torch.clamp(options["clip_norm"] / norm, max=1))
            t = self.count + 1
            torch._foreach_lerp_(self.first, gradients, 0.1)
            torch._foreach_mul_(self.second, 0.999)
            torch._foreach_addcmul_(self.second, gradients, gradients, 0.001)
            mean = torch._foreach_mul(self.first, 0.9 / (1 - 0.9 ** (t + 1)))
            torch._foreach_add_(mean, gradients, alpha=0.1 / (1 - 0.9**t))
            root = torch._foreach_div(self.second, 1 - 0.999**t)
            torch._foreach_sqrt_(root)
            torch._foreach_add_(root, 1e-8)
            torch._foreach_addcdiv_(values, mean, root, -self.rate())
            if options["lookahead"] and t % options["lookahead"] == 0:
                torch._foreach_lerp_(self.slow, values, 0.5)
                torch._foreach_copy_(values, self.slow)
            self.projected()
        self.count = t
        return loss.detach()

    def rate(self):
        """A linear warm-up from 0, then a cosine."""
        warm = round(self.recipe.optimizer.options["schedule"]["warmup_steps"] * TOTAL)
        peak = self.recipe.optimizer.options["learning_rate"]
        if self.count < warm:
            return peak * self.count / warm
        return peak * (1 + math.cos(math.pi * (self.count - warm) / (TOTAL - warm))) / 2

    def projected(self):
        pass


class LiResNet(Network):
    """Stem 5×5 of stride 2, convolutions with the identity in their kernels, patches 4×4, dense layers."""

    def __init__(self, recipe, params, spectral):
        super().__init__(recipe, params, spectral)
        names = {name.split("/")[0] for name in self.values if name.endswith("/kernel")}
        self.depth = sum(name.startswith("trunk") for name in names)
        self.dense = sum(name.startswith("dense") for name in names) - 1

    def kernel(self, name):
        if name == "stem":
            return self.values["stem/kernel"]
        kernel = self.values[f"{name}/kernel"] * (self.values[f"{name}/gain"] / self.depth**0.5)[:, None, None, None]
        return kernel + self.identity

    def features(self, x):
        self.identity = torch.zeros_like(self.values["trunk0/kernel"])
        self.identity[:, :, 1, 1] = torch.eye(len(self.identity), device=DEVICE)
        names = ["stem", *(f"trunk{i}" for i in range(self.depth))]
        self.kernels = {name: self.kernel(name) for name in names}
        self.followed()
        x = (x - 0.5).permute(0, 3, 1, 2)  # channels last in memory
        x = max_min(F.conv2d(x, self.kernels["stem"], self.values["stem/bias"], 2, 2), 1)
        for name in names[1:]:
            x = F.conv2d(x, self.kernels[name], padding=1)
            shift = self.values[f"{name}_centring/bias"] - x.mean((0, 2, 3))
            x = max_min(x + shift[:, None, None], 1)
        n, c, h, w = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(n, h // 4, 4, w // 4, 4, c).transpose(2, 3).reshape(-1, 16 * c)
        x = rows @ orthogonal(self.values["neck/kernel"]) + self.values["neck/bias"]
        x = max_min(x, 1).reshape(n, -1)
        for i in range(self.dense + 1):
            matrix = self.values[f"dense{i}/kernel"]
            if i:
                matrix = torch.eye(len(matrix), device=DEVICE) + matrix * (
                    self.values[f"dense{i}/gain"] / self.dense**0.5
                )
            x = max_min(x @ orthogonal(matrix) + self.values[f"dense{i}/bias"], 1)
        return x

    @torch.no_grad()
    def followed(self):
        """A restart of Lanczos of one image a convolution, as `ops.general_conv.ritz_step`."""
        for name, kernel in self.kernels.items():
            image = self.image(name)
            basis, moved = [image.ravel() / torch.linalg.vector_norm(image)], []
            while True:
                moved.append(self.back(name, kernel, self.forth(name, kernel, basis[-1].reshape(image.shape))).ravel())
                if len(moved) == KRYLOV:
                    break
                rest = moved[-1]
                for _ in range(2):
                    for u in basis:
                        rest = rest - (u @ rest) * u
                basis.append(rest / torch.linalg.vector_norm(rest))
            basis = torch.stack(basis)
            gram = basis @ torch.stack(moved).T
            best = torch.linalg.eigh((gram + gram.T) / 2)[1][:, -1] @ basis
            self.tops[name] = best.reshape(image.shape) / torch.linalg.vector_norm(best)

    def image(self, name):
        """(1, C, H, W); that of the stem is kept in patches of 2×2 by lipjax, in the order (row, column, c)."""
        if name in self.tops:
            return self.tops[name]
        image = self.images[name]
        if name == "stem":
            h, w, _ = image.shape
            image = image.reshape(h, w, 2, 2, 3).transpose(1, 2).reshape(2 * h, 2 * w, 3)
        return image.permute(2, 0, 1)[None].contiguous()

    @staticmethod
    def forth(name, kernel, image):
        return F.conv2d(image, kernel, None, 2, 2) if name == "stem" else F.conv2d(image, kernel, padding=1)

    @staticmethod
    def back(name, kernel, image):
        if name == "stem":
            return F.conv_transpose2d(image, kernel, None, 2, 2, 1)
        return F.conv_transpose2d(image, kernel, padding=1)

    def bound(self):
        """The product of ⟨u, K v⟩, v the image, u = K v / ‖K v‖ held constant."""
        bound = 1.0
        for name, kernel in self.kernels.items():
            y = self.forth(name, kernel, self.tops[name])
            bound = bound * (y * (y / torch.linalg.vector_norm(y)).detach()).sum()
        return bound


def orthogonal(matrix):
    """V L⁻ᵀ, L Lᵀ = VᵀV + δ, δ = 1e-3 of the mean of the diagonal."""
    if matrix.shape[0] < matrix.shape[1]:
        return orthogonal(matrix.T).T
    gram = matrix.T @ matrix
    factor = torch.linalg.cholesky(gram + 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), device=DEVICE))
    return torch.linalg.solve_triangular(factor.T, matrix, upper=True, left=False)


class LipNeXt(Network):
    """Patches, orthonormal columns, blocks σ((Rᵀ S R (x + p)) M + b), norms of channels."""

    def __init__(self, recipe, params, spectral):
        super().__init__(recipe, params, spectral)
        self.depth = sum(name.endswith("/mixing") for name in self.values)
        self.patch = math.isqrt(len(self.values["stem/matrix"]) // 3)
        self.mean = torch.tensor(CIFAR_MEAN, device=DEVICE, dtype=self.values["stem/matrix"].dtype)

    def features(self, x):
        n, h, w, c = x.shape
        p = self.patch
        x = x - self.mean
        x = x.reshape(n, h // p, p, w // p, p, c).permute(0, 1, 3, 5, 2, 4).reshape(n, h // p, w // p, c * p * p)
        x = x @ Along.apply(self.values["stem/matrix"]) + self.values["stem/bias"]
        for i in range(self.depth):
            rotation = Along.apply(self.values[f"block{i}_mixing/rotation"])
            mixing = Along.apply(self.values[f"block{i}_mixing/mixing"])
            x = x + self.values[f"block{i}_position/term"]
            rotated = x @ rotation
            parts = zip(rotated.chunk(4, -1), ((-1, 1), (1, 1), (-1, 2), (1, 2)), strict=True)
            moved = torch.cat([part.roll(*move) for part, move in parts], -1)
            x = (x + (moved - rotated) @ rotation.T) @ mixing + self.values[f"block{i}_mixing/bias"]
            half = x.shape[-1] // 2
            x = torch.cat([x[..., :half].abs(), x[..., half:]], -1)
        return torch.linalg.vector_norm(x, dim=(1, 2))

    def projected(self):
        for name, value in self.values.items():
            if name.endswith(("/matrix", "/rotation", "/mixing")):
                value.copy_(nearest(value))


class Along(torch.autograd.Function):
    """The matrix itself, with the gradient along orthonormal ones."""

    @staticmethod
    def forward(ctx, matrix):
        ctx.save_for_backward(matrix)
        return matrix.view_as(matrix)

    @staticmethod
    def backward(ctx, gradient):
        (matrix,) = ctx.saved_tensors
        if matrix.shape[0] < matrix.shape[1]:
            matrix, gradient = matrix.T, gradient.T
            inner = matrix.T @ gradient
            return (gradient - matrix @ ((inner + inner.T) / 2)).T
        inner = matrix.T @ gradient
        return gradient - matrix @ ((inner + inner.T) / 2)


def nearest(matrix):
    """The nearest matrix with orthonormal columns or rows, by Newton–Schulz steps, as `ops.polar`."""
    if matrix.shape[0] < matrix.shape[1]:
        return nearest(matrix.T).T
    one = torch.eye(matrix.shape[1], device=DEVICE)
    missing = matrix.T @ matrix - one
    for _ in range(40):
        if float((missing**2).sum()) <= 1e-6 * len(one):
            break
        matrix = matrix - matrix @ missing / 2
        missing = matrix.T @ matrix - one
    return matrix - matrix @ missing / 2


def twin_of(name):
    return LiResNet if name.startswith("liresnet") else LipNeXt


def recipe_of(name):
    config = default_config()
    config.update(CONFIGS[name].get_config())
    config.model.head = "lln"
    config.model.compute_dtype = "float32"
    options = dict(config.optimizer)  # NAdam of all parameters, by the rate that those have that are not Muon's
    rate = options.pop("adam_learning_rate", options["learning_rate"])
    config.optimizer = {**options, "name": "nadam", "learning_rate": rate}
    config.data.crop_padding, config.data.flip = 0, False
    config.run.batch_size = BATCH_SIZE.value
    return Recipe.of(config)


def measure(name: str) -> dict:
    recipe, batch = recipe_of(name), BATCH_SIZE.value
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (2 * batch, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, 2 * batch)
    model = recipe.model((32, 32, 3), 10)
    optimizer = recipe.optimizer.transformation(model, TOTAL)
    state, metrics = initial_state(model, optimizer, 0, recipe.loss), Metrics.zero()
    step = make_train_step(model, optimizer, recipe, 255, total=TOTAL)
    order = epoch_order(0, 1, len(labels), batch)
    twin = twin_of(name)(recipe, state.trained(), state.spectral)
    batches = torch.from_numpy(np.array(order, np.int64)).to(DEVICE)
    pixels, classes = torch.from_numpy(images).to(DEVICE), torch.from_numpy(labels).to(DEVICE)

    def twin_step():
        for _ in range(IN_A_ROW.value):
            chosen = batches[twin.count % len(batches)]
            twin.step(pixels[chosen].float() / 255, classes[chosen])
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    agreement = compared(name, recipe, model, state, images[:COMPARED], labels[:COMPARED])
    arrays = jax.numpy.asarray(images), jax.numpy.asarray(labels), order
    held = [step.lower(state, metrics, *arrays).compile(), (state, metrics)]

    def own_step():
        for _ in range(IN_A_ROW.value):
            held[1] = held[0](*held[1], *arrays)
        jax.block_until_ready(held[1])

    runs = {"lipjax": own_step, "PyTorch": twin_step}
    times = {kind: [] for kind in runs}
    for i in range(STEPS.value + 1):
        for kind, run in runs.items():
            wall, processor = time.perf_counter(), time.process_time()
            run()
            if i:  # the first warms up
                times[kind].append((time.perf_counter() - wall, time.process_time() - processor))
    medians = {}
    for kind, rows in times.items():
        wall, processor = (statistics.median(column) / IN_A_ROW.value for column in zip(*rows, strict=True))
        medians[kind] = {"wall": wall, "processor": processor}
    return {"network": name, "batch_size": batch, "steps": STEPS.value, "agreement": agreement, "seconds": medians}


def compared(name, recipe, model, state, images, labels) -> dict:
    """How far logits (largest difference), loss and gradient (l2) are from one another, relative to them; checked.

    In float64: in float32 the gradients differ by a thousandth or a hundredth, where two numbers of a MaxMin pair are
    equal but for rounding.
    """
    torch.set_default_dtype(torch.float64)
    with jax.enable_x64(True):
        state = jax.tree.map(lambda leaf: np.float64(leaf) if np.asarray(leaf).dtype == np.float32 else leaf, state)
        x = np.float64(images) / 255
        twin = twin_of(name)(recipe, state.trained(), state.spectral)

        @jax.jit
        def own(trained):
            def loss_function(trained):
                params = {name: tree for name, tree in trained.items() if name != "loss"}
                variables = {"params": params, "spectral": state.spectral}
                features, updated = model.apply(variables, x, train=True, method="features", mutable=["spectral"])
                variables["spectral"] = {**state.spectral, **updated.get("spectral", {})}
                moment = Moment(jax.numpy.zeros(()), trained.get("loss", {}))
                loss, logits, _ = recipe.loss(model, variables, features, labels, jax.random.key(0), moment)
                return loss, logits

            return jax.value_and_grad(loss_function, has_aux=True)(trained)

        (loss, logits), gradient = jax.tree.map(np.asarray, own(state.trained()))
    twin_loss, twin_logits, twin_gradients = twin.gradients(
        torch.from_numpy(x).to(DEVICE), torch.from_numpy(labels).to(DEVICE)
    )
    torch.set_default_dtype(torch.float32)
    own_gradients = {
        "/".join(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
    }
    squares = {}
    for name, other in zip(twin.values, twin_gradients, strict=True):
        mine = own_gradients[name].transpose(3, 2, 0, 1) if own_gradients[name].ndim == 4 else own_gradients[name]
        squares[name] = float(((mine - other.cpu().numpy()) ** 2).sum()), float((mine**2).sum())
    missed, whole = (sum(column) for column in zip(*squares.values(), strict=True))
    agreement = {
        "logits": float(np.abs(logits - twin_logits.detach().cpu().numpy()).max() / np.abs(logits).max()),
        "loss": abs(float(loss) - twin_loss.item()) / abs(float(loss)),
        "gradient": (missed / whole) ** 0.5,
        "farthest": max(squares, key=lambda name: squares[name][0]),
    }
    if max(agreement["logits"], agreement["loss"], agreement["gradient"]) > 1e-10:
        raise ValueError(f"the twin is another network: {agreement}")
    return agreement


def render(result: dict) -> str:
    lines = ["| network, batch | lipjax: s/step | PyTorch | times faster | processor: s/step | PyTorch | times less |"]
    lines.append("|---" * 7 + "|")
    digits = 2 if result["machine"].get("device", "cpu") == "cpu" else 4
    for row in result["networks"]:
        own, other = row["seconds"]["lipjax"], row["seconds"]["PyTorch"]
        cells = [
            f"{own[key]:.{digits}f} | {other[key]:.{digits}f} | {other[key] / own[key]:.2f}"
            for key in ("wall", "processor")
        ]
        lines.append(f"| {row['network']}, {row['batch_size']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(_):
    if RENDER.value:
        print(render(json.loads(Path(RENDER.value).read_text(encoding="utf-8"))))
        return
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU, as its convolutions have it and jax by default
    torch.backends.cudnn.benchmark = True
    machine = {"cores": cores, "torch": torch.__version__, "jax": jax.__version__}
    machine["device"] = jax.devices()[0].device_kind
    machine["malloc"] = os.environ.get("GLIBC_TUNABLES", "")
    result = {"machine": {**machine, "load_before": os.getloadavg()[0]}, "networks": []}
    for name in NETWORKS.value:
        result["networks"].append(measure(name))
        result["machine"]["load_after"] = os.getloadavg()[0]
        print(render({**result, "networks": result["networks"][-1:]}), result["networks"][-1]["agreement"], flush=True)
        if OUTPUT.value:
            Path(OUTPUT.value).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
