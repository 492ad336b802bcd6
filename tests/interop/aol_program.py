"""Models of almost orthogonal layers in numpy, NHWC as TensorFlow has them: weights by name, and what they compute."""

import numpy as np
from liresnet_program import conv


def rescaled(kernel):
    if kernel.ndim == 2:
        return kernel * (np.abs(kernel @ kernel.T).sum(axis=1, keepdims=True) + 1e-6) ** -0.5
    k = len(kernel)
    v = conv(kernel.transpose(2, 3, 0, 1), kernel.transpose(2, 3, 0, 1), padding=k - 1)
    return kernel * ((np.abs(v).sum(axis=(1, 2, 3)) + 1e-6) ** -0.5)[:, None]


def patches(x, p):
    n, h, w, c = x.shape
    x = x.reshape(n, h // p, p, w // p, p, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h // p, w // p, p * p * c)


def max_min(x):
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    return np.stack([pairs.max(axis=-1), pairs.min(axis=-1)], axis=-1).reshape(x.shape)


MODELS = ("patchwise", "standard", "convolutional", "dense")


def _layers(model):
    """Shapes of the kernels, and what stands around them: ('patch', p), kernel shape, 'act', ('first', c), 'flat'."""
    if model == "patchwise":  # patches of 2, 12 channels, 3 layers of 3×3, 4 kept, dense of 64
        yield from [("patch", 2), (1, 1, 12, 12), "act"]
        yield from [(3, 3, 12, 12), "act"] * 2
        yield from [(1, 1, 12, 12), ("first", 4), "flat", (64, 64), "act", (64, 64), ("first", 10)]
    if model == "standard":
        yield from [(1, 1, 3, 4), "act"]
        for width in (4, 8, 16):
            yield from [(3, 3, width, width), "act", ("patch", 2), (1, 1, 4 * width, 2 * width)]
        yield from [(1, 1, 32, 32), ("first", 10), "flat"]
    if model == "convolutional":
        yield from [("patch", 2), (1, 1, 12, 4), "act", (3, 3, 4, 4), "act"]
        yield from [("patch", 2), (1, 1, 16, 16), "act", (3, 3, 16, 16), "act", (1, 1, 16, 16), ("first", 4)]
        yield from [("patch", 2), (1, 1, 16, 16), "act", (1, 1, 16, 16), "act", (1, 1, 16, 16), ("first", 10), "flat"]
    if model == "dense":
        yield from ["flat", (192, 20), "act", (20, 20), ("first", 10)]


def state(rng, model):
    s, counts = {}, {"conv2d": 0, "dense": 0}
    for entry in _layers(model):
        if entry[0] in ("patch", "first") or isinstance(entry, str):
            continue
        kind = "conv2d" if len(entry) == 4 else "dense"
        number = f"_{counts[kind]}" if counts[kind] else ""
        counts[kind] += 1
        s[f"aol_{kind}{number}/kernel_parameters:0"] = rng.normal(size=entry) / 3
        s[f"aol_{kind}{number}/bias_parameters:0"] = rng.normal(size=entry[-1]) / 10
    return s


def logits(s, images, model):
    x, counts = images, {"conv2d": 0, "dense": 0}
    for entry in _layers(model):
        if entry == "act":
            x = max_min(x)
        elif entry == "flat":
            x = x.reshape(len(x), -1)
        elif entry[0] == "patch":
            x = patches(x, entry[1])
        elif entry[0] == "first":
            x = x[..., : entry[1]]
        else:
            kind = "conv2d" if len(entry) == 4 else "dense"
            name = f"aol_{kind}" + (f"_{counts[kind]}" if counts[kind] else "")
            counts[kind] += 1
            kernel, bias = rescaled(s[f"{name}/kernel_parameters:0"]), s[f"{name}/bias_parameters:0"]
            if kind == "dense":
                x = x @ kernel + bias
            else:
                image = conv(x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), bias, padding=len(kernel) // 2)
                x = image.transpose(0, 2, 3, 1)
    return x
