"""Networks of 1LipschitzLayersCompared in numpy, NCHW, from the formulas of their layers."""

import aol_program
import numpy as np
from liresnet_program import conv
from potential_program import transposed
from soc_program import conv_state, soc, unshuffled

CONVOLUTIONS = ("AOLConv2d", "BCOP", "CayleyConv", "LOT", "SOC", "CPLConv2d", "SLLConv2d")


def _conv_state(rng, kind, name, channels, k, side):
    normal, bias = rng.normal, {f"{name}.bias": rng.normal(size=channels) / 10}
    kernel = normal(size=(channels, channels, k, k)) / (k * channels**0.5)
    if kind == "AOLConv2d":
        return bias | {f"{name}.parametrizations.weight.original": kernel}
    if kind == "BCOP":
        count, half = 2 * k - 1, channels // 2
        mask = np.concatenate([np.ones((count - 1, 1, half)), np.zeros((count - 1, 1, channels - half))], axis=-1)
        matrices = np.eye(channels) + normal(size=(count, channels, channels)) / 4
        return bias | {f"{name}.param_matrices": matrices, f"{name}.mask": mask}
    if kind == "CayleyConv":
        return bias | {f"{name}.weight": kernel, f"{name}.alpha": np.array(5.0)}
    if kind == "LOT":
        eye = np.zeros((channels, channels, k, k))
        eye[range(channels), range(channels), k // 2, k // 2] = 1
        return bias | {f"{name}.weight": eye + kernel / 2}
    if kind == "SOC":
        return conv_state(rng, name, channels, channels, k)
    own = {"u": normal(size=(1, channels, side, side))} if kind == "CPLConv2d" else {"q": normal(size=channels)}
    return bias | {f"{name}.kernel": kernel} | {f"{name}.{end}": array for end, array in own.items()}


def state(rng, kind, width=4, blocks=3, layers=1):
    s, channels, side = _conv_state(rng, kind, "FirstConv", width, 1, 2**blocks), width, 2**blocks
    for block in range(1, blocks + 1):
        k = 1 if block == blocks else 3
        for i in range(layers):
            s |= _conv_state(rng, kind, f"Block{block}.{2 * i}", channels, k, side)
        channels, side = channels * 2, side // 2
    if kind == "CayleyConv":
        weight = {"weight": rng.normal(size=(channels, channels)), "alpha": np.array([3.0])}
    elif kind == "BCOP":
        weight = {"weight": np.eye(channels) + rng.normal(size=(channels, channels)) / 30}
    else:
        return s | _conv_state(rng, kind, "ClassificationHead.0", channels, 1, 1)
    weight["bias"] = rng.normal(size=channels) / 10
    return s | {f"ClassificationHead.1.{name}": array for name, array in weight.items()}


def _bjorck(w):
    for _ in range(20):
        w = 1.5 * w - 0.5 * w @ w.T @ w
    return w


def _cayley(w):
    a = w - np.swapaxes(w.conj(), -1, -2)
    eye = np.eye(w.shape[-1])
    return np.linalg.inv(eye + a) @ (eye - a)


def _bcop(s, name):
    matrices, mask = s[f"{name}.param_matrices"], s[f"{name}.mask"]
    ortho = [_bjorck(m / np.linalg.norm(m, 2)) for m in matrices]
    if len(ortho) == 1:
        return ortho[0][:, :, None, None]
    p = [(m * f) @ (m * f).T for m, f in zip(ortho[1:], mask, strict=True)]
    c, eye = len(ortho[0]), np.eye(len(ortho[0]))
    taps = {(0, 0): eye}
    for first, second in zip(p[::2], p[1::2], strict=True):
        pair = {(i, j): (first if i == 0 else eye - first) @ (second if j == 0 else eye - second)
                for i in (0, 1) for j in (0, 1)}  # fmt: skip
        new = {}
        for (i, j), a in taps.items():
            for (m, n), b in pair.items():
                new[i + m, j + n] = new.get((i + m, j + n), 0) + a @ b
        taps = new
    k = len(p) // 2 + 1
    kernel = np.zeros((c, c, k, k))
    for (i, j), a in taps.items():
        kernel[:, :, j, i] = (ortho[0] @ a).T
    return kernel


def _in_frequency(x, symbol):
    return np.fft.ifft2(np.einsum("yxoc,ncyx->noyx", symbol, np.fft.fft2(x))).real


def _symbol(weight, n):
    k = weight.shape[2]
    shift = np.arange(n)[:, None] + np.arange(n)
    return (np.exp(-2j * np.pi * ((k - 1) // 2) * shift / n) * np.fft.fft2(weight, (n, n)).conj()).transpose(2, 3, 0, 1)


def _lot(x, weight):
    pad = weight.shape[2] // 2
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    v = _symbol(weight, x.shape[2])
    gram = v @ v.conj().swapaxes(2, 3) + 1e-4 * np.eye(len(weight))
    norm = np.linalg.norm(gram, axis=(2, 3), keepdims=True) + 1e-4
    y, eye = gram / norm, np.eye(len(weight))
    z = eye + 0 * y
    for _ in range(10):
        t = 0.5 * (3 * eye - z @ y)
        y, z = y @ t, t @ z
    x = _in_frequency(x, z @ v / np.sqrt(norm))
    return x[:, :, pad:-pad, pad:-pad] if pad else x


def _circular(x, kernel):
    pad = kernel.shape[2] // 2
    return conv(np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode="wrap"), kernel)


def _applied(s, kind, name, x):
    bias = s[f"{name}.bias"][:, None, None]
    if kind == "SOC":
        return soc(s, name, x)
    if kind == "AOLConv2d":
        raw = s[f"{name}.parametrizations.weight.original"]
        scaled = aol_program.rescaled(raw.transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1)
        return _circular(x, scaled) + bias
    if kind == "BCOP":
        return _circular(x, _bcop(s, name)) + bias
    if kind == "CayleyConv":
        weight, n = s[f"{name}.weight"], x.shape[2]
        norm = np.linalg.norm(np.fft.rfft2(weight, (n, n)))
        return _in_frequency(x, _cayley(s[f"{name}.alpha"] * _symbol(weight, n) / norm)) + bias
    if kind == "LOT":
        return _lot(x, s[f"{name}.weight"]) + bias
    kernel = s[f"{name}.kernel"]
    k = kernel.shape[2]

    def back(y):
        return transposed(y, kernel) if k == 3 else conv(y, kernel.swapaxes(0, 1))

    z = np.maximum(conv(x, kernel, s[f"{name}.bias"], padding=k // 2), 0)
    if kind == "CPLConv2d":
        u = s[f"{name}.u"]
        for _ in range(100):
            v = conv(u, kernel, padding=k // 2)
            v = v / np.linalg.norm(v)
            u = back(v)
            u = u / np.linalg.norm(u)
        return x - 2 / ((conv(u, kernel, padding=k // 2) * v).sum() ** 2 + 1e-6) * back(z)
    q = np.abs(s[f"{name}.q"]) + 1e-6
    kkt = conv(kernel, kernel, padding=k - 1) * q[:, None, None]
    return x - back((2 / (np.abs(kkt).sum(axis=(1, 2, 3)) / q + 1e-6))[:, None, None] * z)


def max_min(x):
    return aol_program.max_min(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def logits(s, images, kind, mean=(0.49139968, 0.48215841, 0.44653091), width=4, blocks=3, layers=1):
    x = (images - mean).transpose(0, 3, 1, 2)
    x = np.concatenate([x, np.zeros((len(x), width - 3, *x.shape[2:]))], axis=1)
    x = max_min(_applied(s, kind, "FirstConv", x))
    for block in range(1, blocks + 1):
        for i in range(layers):
            x = max_min(_applied(s, kind, f"Block{block}.{2 * i}", x))
        x = unshuffled(x[:, : x.shape[1] // 2])
    if kind in ("CayleyConv", "BCOP"):
        weight, x = s["ClassificationHead.1.weight"], x[:, :, 0, 0]
        scaled = (s["ClassificationHead.1.alpha"] * weight / np.linalg.norm(weight)) if kind == "CayleyConv" else 0
        q = _cayley(scaled) if kind == "CayleyConv" else _bjorck(weight)
        return (x @ q.T + s["ClassificationHead.1.bias"])[:, :10]
    return _applied(s, kind, "ClassificationHead.0", x)[:, :10, 0, 0]
