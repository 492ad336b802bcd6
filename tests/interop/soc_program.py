"""LipConvNet of skew orthogonal convolutions (2021) in numpy, NCHW: a state dict, and what it computes."""

import numpy as np
from liresnet_program import conv, max_min


def conv_state(rng, name, out, into, k):
    """Of one convolution; its power vectors are those of the program after 50 iterations."""
    c = max(out, into)
    raw = rng.normal(size=(c, c, k, k)) / np.sqrt(c)
    skew = 0.5 * (raw - raw.swapaxes(0, 1)[:, :, ::-1, ::-1])
    s = {f"{name}.random_conv_filter": raw, f"{name}.correction": np.array([1.0 if k == 1 else 0.7])}
    s[f"{name}.bias"] = rng.normal(size=out) / 10
    axes = {1: ((1, 3), (0, 2)), 2: ((1, 2), (0, 3)), 3: ((1, 2, 3), (0,)), 4: ((0, 2, 3), (1,))}
    for i, (of_v, of_u) in axes.items():
        shape = [1 if axis in of_u else n for axis, n in enumerate(skew.shape)]
        u = rng.normal(size=shape)
        for _ in range(50):
            v = (skew * u).sum(axis=of_v, keepdims=True)
            v /= np.linalg.norm(v)
            u = (skew * v).sum(axis=of_u, keepdims=True)
            u /= np.linalg.norm(u)
        s |= {f"{name}.u{i}": u, f"{name}.v{i}": v}
    return s


def state(rng, init=2, blocks=1, activation="maxmin", lln=True, classes=10):
    s, channels = {}, 3
    for stage in range(1, 6):
        for block in range(blocks):
            strided = block == blocks - 1
            k = 1 if strided and stage == 5 else 3
            out = init * 2**stage if strided else init * 2 ** (stage - 1)
            s |= conv_state(rng, f"layer{stage}.{block}.conv", out, channels * (4 if strided else 1), k)
            name = f"layer{stage}.{block}.activation"
            if activation == "hh1":
                s[f"{name}.theta"] = rng.uniform(0, 3, size=(1, out // 2, 1, 1))
            if activation == "hh2":
                s |= {f"{name}.theta{i}": rng.uniform(0, 3, size=out // 2) for i in range(3)}
            channels = out
    if lln:
        last = {"weight": rng.normal(size=(classes, channels)), "bias": rng.normal(size=classes)}
        return s | {f"last_layer.{name}": array for name, array in last.items()}
    return s | conv_state(rng, "last_layer", classes, channels, 1)


def soc(s, name, x):
    raw, out = s[f"{name}.random_conv_filter"], len(s[f"{name}.bias"])
    skew = 0.5 * (raw - raw.swapaxes(0, 1)[:, :, ::-1, ::-1])
    sigma = min((skew * s[f"{name}.u{i}"] * s[f"{name}.v{i}"]).sum() for i in range(1, 5))
    kernel = s[f"{name}.correction"][0] * skew / sigma
    x = np.concatenate([x, np.zeros((len(x), len(raw) - x.shape[1], *x.shape[2:]))], axis=1)
    z = power = x
    for i in range(1, 13):
        power = conv(power, kernel, padding=raw.shape[2] // 2) / i
        z = z + power
    return z[:, :out] + s[f"{name}.bias"][:, None, None]


def activated(s, name, x):
    a, b = np.split(x, 2, axis=1)
    if f"{name}.theta" in s:
        theta = s[f"{name}.theta"]
        turned = a * np.sin(theta / 2) - b * np.cos(theta / 2) > 0
        first, second = a * np.cos(theta) + b * np.sin(theta), a * np.sin(theta) - b * np.cos(theta)
        return np.concatenate([np.where(turned, first, a), np.where(turned, second, b)], axis=1)
    if f"{name}.theta0" in s:
        t0, t1, t2 = (np.clip(s[f"{name}.theta{i}"].reshape(1, -1, 1, 1), 0, 2 * np.pi) for i in range(3))
        angle = (np.arctan2(b, a) - t0 / 2) % (2 * np.pi)
        ends = [t1 / 2, (t1 + t2) / 2, (t2 + 2 * np.pi) / 2]
        sector = sum((angle >= end).astype(int) for end in ends)
        mirrored = [(a * np.cos(t) + b * np.sin(t), a * np.sin(t) - b * np.cos(t)) for t in (t0 + t1, t0)]
        turned = (a * np.cos(t2) + b * np.sin(t2), -a * np.sin(t2) + b * np.cos(t2))
        options = [(a, b), mirrored[0], turned, mirrored[1]]
        return np.concatenate([np.choose(sector, [option[part] for option in options]) for part in (0, 1)], axis=1)
    return max_min(x)


def unshuffled(x):
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).transpose(0, 1, 3, 5, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


def logits(s, images, blocks=1):
    x = ((images - (0.4914, 0.4822, 0.4465)) / 0.2507).transpose(0, 3, 1, 2)
    for stage in range(1, 6):
        for block in range(blocks):
            x = unshuffled(x) if block == blocks - 1 else x
            x = activated(s, f"layer{stage}.{block}.activation", soc(s, f"layer{stage}.{block}.conv", x))
    if "last_layer.weight" in s:
        weight = s["last_layer.weight"]
        weight = weight / np.linalg.norm(weight, axis=1, keepdims=True)
        return x.reshape(len(x), -1) @ weight.T + s["last_layer.bias"]
    return soc(s, "last_layer", x).reshape(len(x), -1)
