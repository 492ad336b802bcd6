"""SLL and CPL networks in numpy, from the formulas of their programs, NCHW."""

import numpy as np
from liresnet_program import conv


def transposed(y, kernel):
    """The adjoint of the convolution with a kernel (O, C, 3, 3) and one pixel of zeros around."""
    return conv(y, kernel.swapaxes(0, 1)[:, :, ::-1, ::-1], padding=1)


def pool(x):
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 4, 4, w // 4, 4).sum(axis=(3, 5)) / 4


def unit(weight):
    return weight / np.linalg.norm(weight, axis=1, keepdims=True)


def channels(x, width):
    return np.concatenate([x, np.zeros((len(x), width - x.shape[1], *x.shape[2:]))], axis=1)


def sll_state(rng, width=4, inner=5, convs=2, denses=2, side=8, classes=10):
    features, normal, s = width * (side // 4) ** 2, rng.normal, {}
    for i in range(1, convs + 1):
        s[f"model.model.{i}.kernel"] = normal(size=(inner, width, 3, 3)) / 3
        s[f"model.model.{i}.bias"] = normal(size=(1, inner, 1, 1)) / 10
        s[f"model.model.{i}.q"] = normal(size=inner)
    for i in range(convs + 3, convs + 3 + denses):
        s[f"model.model.{i}.weight"] = normal(size=(7, features)) / 3
        s[f"model.model.{i}.bias"] = normal(size=(1, 7)) / 10
        s[f"model.model.{i}.q"] = normal(size=7)
    last = convs + 3 + denses
    s[f"model.model.{last}.weight"] = normal(size=(classes, features))
    s[f"model.model.{last}.bias"] = normal(size=classes) / 10
    return s


def _t(sizes, q):
    return (np.exp(-q)[:, None] * sizes * np.exp(q)).sum(axis=1)


def sll_logits(s, images, mean, width=4, convs=2, denses=2):
    x = channels((images - mean).transpose(0, 3, 1, 2), width)
    for i in range(1, convs + 1):
        kernel, q = s[f"model.model.{i}.kernel"], 0 * s[f"model.model.{i}.q"]  # the program cancels it
        ktk = np.abs(conv(kernel, kernel, padding=2)).sum(axis=(2, 3))
        z = np.maximum(conv(x, kernel, s[f"model.model.{i}.bias"].ravel(), padding=1), 0)
        x = x - 2 * transposed(z / _t(ktk, q)[:, None, None], kernel)
    x = pool(x).reshape(len(x), -1)
    for i in range(convs + 3, convs + 3 + denses):
        weight, q = s[f"model.model.{i}.weight"], s[f"model.model.{i}.q"]
        z = np.maximum(x @ weight.T + s[f"model.model.{i}.bias"], 0)
        x = x - 2 * (z / _t(np.abs(weight @ weight.T), q)) @ weight
    last = convs + 3 + denses
    return x @ unit(s[f"model.model.{last}.weight"]).T + s[f"model.model.{last}.bias"]


def cpl_state(rng, width=4, inner=5, convs=2, denses=2, side=8, classes=10, lln=True, norm=None):
    """`norm`: what the program would have stored; None: a little below the norm of each layer."""
    features, normal, s = width * (side // 4) ** 2, rng.normal, {}
    for i in range(convs):
        name = f"model.stable_block.{i}"
        s[f"{name}.kernel"] = normal(size=(inner, width, 3, 3)) / 3
        s[f"{name}.bias"] = normal(size=inner) / 10
        images = np.eye(width * side * side).reshape(-1, width, side, side)
        true = np.linalg.norm(conv(images, s[f"{name}.kernel"], padding=1).reshape(len(images), -1), 2)
        s[f"{name}.eval_sv_max"] = np.array([0.999 * true if norm is None else norm])
        s[f"{name}.pm.u"] = normal(size=(1, width, side, side))
    for i in range(1, denses + 1):
        name = f"model.layers_linear.{i}"
        s[f"{name}.weights"] = normal(size=(7, features)) / 3
        s[f"{name}.bias"] = normal(size=7) / 10
        s[f"{name}.alpha"] = np.zeros(1)
        s[f"{name}.eval_sv_max"] = np.array([np.linalg.norm(s[f"{name}.weights"], 2) if norm is None else norm])
        s[f"{name}.pm.u"] = normal(size=(1, features))
    if lln:
        s["model.last_last.weight"] = normal(size=(classes, features))
        s["model.last_last.bias"] = normal(size=classes) / 10
    base = {f"model.base.1.{n.removeprefix('model.stable_block.')}": s[n] for n in s if "stable_block" in n}
    base |= {f"model.base.2.{n.removeprefix('model.layers_linear.')}": s[n] for n in s if "layers_linear" in n}
    return s | base


def _steps(kernel, u, stored):
    """The program's σ: stored, or by 100 power iterations."""
    if stored:
        return stored
    for _ in range(100):
        v = conv(u, kernel, padding=1) if kernel.ndim == 4 else u @ kernel.T
        v = v / (np.linalg.norm(v) + 1e-12)
        u = transposed(v, kernel) if kernel.ndim == 4 else v @ kernel
        u = u / (np.linalg.norm(u) + 1e-12)
    return float(((conv(u, kernel, padding=1) if kernel.ndim == 4 else u @ kernel.T) * v).sum())


def cpl_logits(s, images, mean, std=1.0, width=4, convs=2, denses=2):
    x = channels(((images - mean) / std).transpose(0, 3, 1, 2), width)
    for i in range(convs):
        name = f"model.stable_block.{i}"
        kernel = s[f"{name}.kernel"]
        sigma = _steps(kernel, s[f"{name}.pm.u"], s[f"{name}.eval_sv_max"][0])
        z = np.maximum(conv(x, kernel, s[f"{name}.bias"], padding=1), 0)
        x = x - 2 / (sigma**2 + 1e-4) * transposed(z, kernel)
    x = pool(x).reshape(len(x), -1)
    for i in range(1, denses + 1):
        name = f"model.layers_linear.{i}"
        weight = s[f"{name}.weights"]
        sigma = _steps(weight, s[f"{name}.pm.u"], s[f"{name}.eval_sv_max"][0])
        x = x - 2 / (sigma**2 + 1e-4) * np.maximum(x @ weight.T + s[f"{name}.bias"], 0) @ weight
    if "model.last_last.weight" not in s:
        return x[:, :10]
    return x @ unit(s["model.last_last.weight"]).T + s["model.last_last.bias"]
