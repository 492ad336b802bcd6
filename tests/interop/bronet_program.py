"""BRONet in numpy, from the formulas of its program, NCHW: a state dict, and what it computes."""

import liresnet_program as liresnet
import numpy as np


def state(rng, width=6, rank=3, depth=2, border=False, hybrid=False, out=8, mlp="cholesky", side=16, l2=False):
    """Random parameters under the names of the program; `border`: of its second kind ('v2')."""
    small = side // 2
    s = liresnet.state(rng, width, depth, out, side=side)
    free = {name.replace("conv.", "conv_1."): s.pop(name) for name in list(s) if name.startswith("conv.")}
    identity = np.zeros((width, rank, 3, 3))
    identity[range(rank), range(rank), 1, 1] = 1
    normal = rng.normal
    s |= free if hybrid else {}
    s |= {
        "conv.weights": normal(size=(depth, width, rank, 3, 3)) / 4,
        "conv.gamma": 1 + normal(size=(depth, width, 1, 1, 1)) / 10,
        "conv.bias": normal(size=(depth, width)) / 10,
        "conv.running_mean": normal(size=(depth, width)) / 10,
        "conv.identity": identity,
        "conv.I_low": np.eye(rank)[None, None, None],
        "conv.I_full": np.eye(width)[None, None, None],
    }
    feature = (small + 2 * depth * border) // 4
    s["neck.weight"] = normal(size=(out, width * feature**2))
    if l2:
        del s["neck.kernel"]
    if mlp == "bro":
        rank = out // 2
        half = np.zeros((out, rank))
        half[range(rank), range(rank)] = 1
        del s["linear.eval_weight"]
        s |= {"linear.weights": normal(size=(2, out, rank)) / 2, "linear.residual_identity": half}
        s |= {"linear.identity_half": np.eye(rank)}
    return s


def reflector(v, ridge):
    gram = np.swapaxes(v.conj(), -1, -2) @ v
    mean = np.trace(gram, axis1=-2, axis2=-1).real / gram.shape[-1]
    gram = gram + (ridge * mean)[..., None, None] * np.eye(gram.shape[-1])
    return np.eye(v.shape[-2]) - 2 * v @ np.linalg.solve(gram, np.swapaxes(v.conj(), -1, -2))


def trunk(s, x, border=False, circular=False):
    depth = len(s["conv.weights"])
    for i in range(depth):
        v = s["conv.identity"] + s["conv.weights"][i] * s["conv.gamma"][i] * depth**-0.5
        x = x if circular else np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        n = x.shape[2]
        symbol = np.fft.fft2(v, (n, n), norm="ortho").transpose(2, 3, 0, 1)
        w = reflector(symbol.conj() if border else symbol, np.array(1e-7))
        x = np.fft.ifft2(np.einsum("yxoc,ncyx->noyx", w, np.fft.fft2(x))).real
        x = x if border or circular else x[:, :, 1:-1, 1:-1]
        x = liresnet.max_min(x + (s["conv.bias"][i] - s["conv.running_mean"][i])[:, None, None])
    return x


def neck(s, x):
    if "neck.kernel" in s:
        return liresnet.neck(s, x)
    n, c, h, w = x.shape
    x = np.sqrt((x.reshape(n, c, h // 4, 4, w // 4, 4) ** 2).sum(axis=(3, 5)))
    return liresnet.max_min(x.reshape(n, -1) @ liresnet.orthogonal_rows(s["neck.weight"]).T + s["neck.bias"])


def dense(s, x):
    if "linear.residual_identity" not in s:
        return liresnet.dense(s, x)
    depth = len(s["linear.weights"])
    for weight, gain, bias in zip(s["linear.weights"], s["linear.gamma"], s["linear.bias"], strict=True):
        v = s["linear.residual_identity"] + weight * gain * depth**-0.5
        x = liresnet.max_min(x @ reflector(v, np.array(1e-7)).T + bias)
    return x


def logits(s, images, border=False, circular=False):
    """Of images (N, H, W, 3)."""
    x = liresnet.stem(s, images.transpose(0, 3, 1, 2))
    x = liresnet.trunk(s, x, "conv_1") if "conv_1.weights" in s else x
    return liresnet.head(s, dense(s, neck(s, trunk(s, x, border, circular))))
