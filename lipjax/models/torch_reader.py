"""A torch `nn.Sequential` as a plain description; torch is imported when one is read, and not otherwise."""

from collections.abc import Callable
from typing import Any

import numpy as np

# Places of the input that a module takes: images, features, or either.
IMAGES, FEATURES, ANY = "images", "features", ""

_ACTIVATIONS = {"ReLU": "relu", "ReLU6": "relu6", "SELU": "selu", "Sigmoid": "sigmoid", "Tanh": "tanh"}
_ACTIVATIONS |= {"Softsign": "softsign", "SiLU": "silu", "Mish": "mish", "Hardswish": "hard_swish"}
_ACTIVATIONS |= {"Hardsigmoid": "hard_sigmoid"}
_NOTHING = ("Identity", "Dropout", "Dropout1d", "Dropout2d", "AlphaDropout", "FeatureAlphaDropout")


def described(module: Any) -> list[dict[str, Any]]:
    """The plain description of an `nn.Sequential` in evaluation; images (N, C, H, W) there are (N, H, W, C) here.

    Sequential (in each other), Conv2d, Linear, BatchNorm1d and 2d, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d(1), Flatten,
    Identity, dropouts, and the activations ReLU, ReLU6, LeakyReLU, ELU, SELU, GELU, SiLU, Mish, Sigmoid, Tanh,
    Softplus, Softsign, Hardtanh, Hardsigmoid, Hardswish.  Softplus is read as its formula: torch's own jumps at
    threshold / beta, where it goes over to x, by e^−threshold / beta, which no Lipschitz constant covers.

    Raises:
      TypeError: what is no such module (a subclass might compute something else), by its path; one with hooks or with a
        forward of its own.
      ValueError: a module in training, or with options of which nothing is known here.
    """
    import torch

    if type(module) is not torch.nn.Sequential:
        raise TypeError(f"a torch network must be an nn.Sequential, got {type(module).__name__}")
    description: list[dict[str, Any]] = []
    place = ANY
    for path, leaf in _leaves(module, ""):
        kind = type(leaf).__name__
        if kind in _NOTHING:
            continue
        make, takes = _made(path, leaf)
        if takes and place and takes != place:
            raise ValueError(f"{path} ({kind}): takes {takes}, and gets {place}")
        place = takes or place
        description += make(leaf)
        if kind in ("Flatten", "AdaptiveAvgPool2d"):
            place = FEATURES
    return description


def _leaves(module: Any, path: str):
    """(path, module) of what is no Sequential, in order, checked to be what torch defines."""
    import torch

    if type(module) is not getattr(torch.nn, type(module).__name__, None):
        raise TypeError(f"{path}: {type(module).__name__} is no module of torch.nn that is known here")
    everywhere = torch.nn.modules.module
    hooks = [getattr(module, name, None) for name in ("_forward_hooks", "_forward_pre_hooks")]
    hooks += [getattr(everywhere, name, None) for name in ("_global_forward_hooks", "_global_forward_pre_hooks")]
    own = [name for name, value in vars(module).items() if callable(value) and hasattr(type(module), name)]
    own += [] if type(module).forward.__module__.startswith("torch.nn.") else ["forward"]  # of the class, changed
    if any(hooks) or own:
        raise TypeError(
            f"{path or 'the network'}: has hooks or a {own[0] if own else 'forward'} of its own, which may change what "
            "it computes"
        )
    if type(module) is torch.nn.Sequential:
        for name, child in module._modules.items():  # `children` leaves out what comes a second time
            yield from _leaves(child, f"{path}.{name}" if path else name)
        return
    if module.training and (module._buffers or "Dropout" in type(module).__name__):
        raise ValueError(f"{path} ({type(module).__name__}): is in training; call eval() of the network")
    yield path, module


def _made(path: str, module: Any) -> tuple[Callable[[Any], list[dict[str, Any]]], str]:
    """(module → plain layers, what it takes)."""
    kind = type(module).__name__
    known = {**_MODULES, **dict.fromkeys((*_ACTIVATIONS, *_WITH_PARAMETER), (_activation, ANY))}
    if kind not in known:
        raise TypeError(f"{path}: {kind} must be one of {', '.join(('Sequential', *known, *_NOTHING))}")
    make, takes = known[kind]

    def made(module):
        try:
            return make(module)
        except ValueError as error:
            raise ValueError(f"{path} ({kind}): {error}") from error

    return made, takes


def _array(tensor: Any) -> np.ndarray:
    array = tensor.detach().cpu().numpy()
    if array.dtype not in (np.float32, np.float64):
        raise ValueError(f"parameters must be float32 or float64, got {array.dtype}")
    return array


def _both(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _around(value: Any) -> tuple[tuple[int, int], ...]:
    return tuple((n, n) for n in _both(value))


def _with_bias(layer: dict[str, Any], module: Any) -> list[dict[str, Any]]:
    return [layer if module.bias is None else {**layer, "bias": _array(module.bias)}]


def _conv(module) -> list[dict[str, Any]]:
    if module.padding_mode not in ("zeros", "circular", "reflect"):
        raise ValueError(f"padding_mode must be 'zeros', 'circular' or 'reflect', got {module.padding_mode!r}")
    if module.padding_mode != "zeros":  # then the module pads by what it made of `padding` when it was made
        left, right, top, bottom = module._reversed_padding_repeated_twice
        padding: tuple[tuple[int, int], ...] = ((top, bottom), (left, right))
    elif module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        padding = tuple((total // 2, total - total // 2) for total in totals)
    else:
        padding = _around(0 if module.padding == "valid" else module.padding)
    layer = {"kind": "conv", "kernel": _array(module.weight).transpose(2, 3, 1, 0), "padding": padding}
    layer |= {"stride": _both(module.stride), "dilation": _both(module.dilation)}
    return _with_bias({**layer, "padding_mode": module.padding_mode, "groups": module.groups}, module)


def _linear(module) -> list[dict[str, Any]]:
    return _with_bias({"kind": "dense", "kernel": _array(module.weight).T}, module)


def _batch_norm(module) -> list[dict[str, Any]]:
    """(x − mean) / (var + ε)^½ · w + b, in float64."""
    if not module.track_running_stats or module.running_mean is None:
        raise ValueError("track_running_stats must be True: without, evaluation depends on the other images")
    mean, variance = (_array(stat).astype(np.float64) for stat in (module.running_mean, module.running_var))
    scale = 1 / np.sqrt(variance + module.eps)
    if module.affine:
        scale = scale * _array(module.weight)
    shift = -mean * scale + (_array(module.bias) if module.affine else 0)
    return [{"kind": "affine", "scale": scale, "shift": shift}]


def _window(module) -> dict[str, Any]:
    if module.ceil_mode:
        raise ValueError("ceil_mode must be False")
    stride = module.kernel_size if module.stride is None else module.stride
    return {"size": _both(module.kernel_size), "stride": _both(stride), "padding": _around(module.padding)}


def _max_pool(module) -> list[dict[str, Any]]:
    if _both(module.dilation) != (1, 1) or module.return_indices:
        raise ValueError("dilation must be 1 and return_indices False")
    return [{"kind": "max_pool", **_window(module)}]


def _average_pool(module) -> list[dict[str, Any]]:
    if module.divisor_override is not None:
        raise ValueError("divisor_override must be None")
    return [{"kind": "average_pool", **_window(module), "count_padding": module.count_include_pad}]


def _global_average_pool(module) -> list[dict[str, Any]]:
    if module.output_size not in (1, (1, 1)):
        raise ValueError(f"output_size must be 1, got {module.output_size}")
    return [{"kind": "global_average_pool"}]


def _flatten(module) -> list[dict[str, Any]]:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise ValueError(f"start_dim and end_dim must be 1 and -1, got {module.start_dim} and {module.end_dim}")
    return [{"kind": "flatten", "order": "chw"}]


def _softplus(module) -> dict[str, Any]:
    if module.threshold < 20:
        raise ValueError(f"threshold must be at least 20, got {module.threshold}")
    return {"name": "softplus", "beta": float(module.beta)}


def _hard_tanh(module) -> dict[str, Any]:
    if (module.min_val, module.max_val) != (-1.0, 1.0):
        raise ValueError(f"min_val and max_val must be -1 and 1, got {module.min_val} and {module.max_val}")
    return {"name": "hard_tanh"}


def _gelu(module) -> dict[str, Any]:
    return {"name": "gelu" if module.approximate == "none" else "gelu_tanh"}


_WITH_PARAMETER: dict[str, Callable[[Any], dict[str, Any]]] = {
    "LeakyReLU": lambda module: {"name": "leaky_relu", "slope": float(module.negative_slope)},
    "ELU": lambda module: {"name": "elu", "alpha": float(module.alpha)},
    "GELU": _gelu,
    "Softplus": _softplus,
    "Hardtanh": _hard_tanh,
}


def _activation(module) -> list[dict[str, Any]]:
    kind = type(module).__name__
    named = _WITH_PARAMETER[kind](module) if kind in _WITH_PARAMETER else {"name": _ACTIVATIONS[kind]}
    return [{"kind": "activation", **named}]


_MODULES: dict[str, tuple[Callable[[Any], list[dict[str, Any]]], str]] = {
    "Conv2d": (_conv, IMAGES),
    "Linear": (_linear, FEATURES),
    "BatchNorm1d": (_batch_norm, FEATURES),
    "BatchNorm2d": (_batch_norm, IMAGES),
    "MaxPool2d": (_max_pool, IMAGES),
    "AvgPool2d": (_average_pool, IMAGES),
    "AdaptiveAvgPool2d": (_global_average_pool, IMAGES),
    "Flatten": (_flatten, ANY),
}
