"""LiResNet in numpy, from the formulas of its program, NCHW: a state dict, and what it computes."""

import numpy as np


def conv(x, kernel, bias=None, stride=1, padding=0):
    """The cross-correlation of x (N, C, H, W) with a kernel (O, C, k, k)."""
    k = kernel.shape[2]
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    views = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(2, 3))[:, :, ::stride, ::stride]
    y = np.einsum("nchwij,ocij->nohw", views, kernel)
    return y if bias is None else y + bias[:, None, None]


def max_min(x):
    a, b = np.split(x, 2, axis=1)
    return np.concatenate([np.maximum(a, b), np.minimum(a, b)], axis=1)


def orthogonal_rows(v):
    gram = v @ v.T
    factor = np.linalg.cholesky(gram + np.diag(gram).mean() / 1000 * np.eye(len(gram)))
    return np.linalg.solve(factor, v)


def state(rng, width=4, depth=2, out=6, mlp=2, classes=10, side=8, stride=2, channels=3):
    """Random parameters under the names of the program."""
    small, feature = side // stride, (side // stride) // 4
    identity = np.zeros((depth, width, width, 3, 3))
    identity[:, range(width), range(width), 1, 1] = 1
    normal = rng.normal
    return {
        "stem.0.weight": normal(size=(width, channels, 5, 5)) / 5,
        "stem.0.bias": normal(size=width) / 10,
        "stem.0.init_x": np.ones((1, channels, side, side)),
        "conv.weights": normal(size=(depth, width, width, 3, 3)) / 9,
        "conv.gamma": 1 + normal(size=(depth, width, 1, 1, 1)) / 10,
        "conv.bias": normal(size=(depth, width)) / 10,
        "conv.running_mean": normal(size=(depth, width)) / 10,
        "conv.identity": identity,
        "conv.init_x": np.ones((1, depth * width, small, small)),
        "neck.kernel": normal(size=(width, width * 16)),
        "neck.weight": normal(size=(out, width * feature**2)),
        "neck.bias": normal(size=out) / 10,
        "linear.weights": normal(size=(mlp, out, out)) / 2,
        "linear.gamma": 1 + normal(size=(mlp, out, 1)) / 10,
        "linear.bias": normal(size=(mlp, out)) / 10,
        "linear.identity": np.eye(out),
        "linear.eval_weight": np.zeros((mlp, out, out)),
        "head.weight": normal(size=(classes, out)),
        "head.bias": normal(size=classes) / 10,
    }


def trunk(s, x, prefix="conv"):
    depth = len(s[f"{prefix}.weights"])
    for i in range(depth):
        kernel = s[f"{prefix}.identity"][i] + s[f"{prefix}.weights"][i] * s[f"{prefix}.gamma"][i] * depth**-0.5
        x = max_min(conv(x, kernel, s[f"{prefix}.bias"][i] - s[f"{prefix}.running_mean"][i], padding=1))
    return x


def neck(s, x):
    width = x.shape[1]
    x = conv(x, orthogonal_rows(s["neck.kernel"]).reshape(width, width, 4, 4), stride=4)
    return max_min(x.reshape(len(x), -1) @ orthogonal_rows(s["neck.weight"]).T + s["neck.bias"])


def dense(s, x):
    depth = len(s["linear.weights"])
    for weight, gain, bias in zip(s["linear.weights"], s["linear.gamma"], s["linear.bias"], strict=True):
        x = max_min(x @ orthogonal_rows(s["linear.identity"] + weight * gain * depth**-0.5).T + bias)
    return x


def head(s, x):
    weight = s["head.weight"]
    return x @ (weight / np.linalg.norm(weight, axis=1, keepdims=True)).T + s["head.bias"]


def stem(s, x, stride=2):
    return max_min(conv(x - 0.5, s["stem.0.weight"], s["stem.0.bias"], stride, 2))


def logits(s, images, stride=2):
    """Of images (N, H, W, 3)."""
    x = trunk(s, stem(s, images.transpose(0, 3, 1, 2), stride))
    return head(s, dense(s, neck(s, x)))
