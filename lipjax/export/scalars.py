"""Activations of one number by the operations of a format (`lowering.Operations`)."""

import math
from typing import Any


def _sigmoid(o, x):
    one, zero = o.constant(1.0), o.constant(0.0)
    return o.exp(o.minimum(x, zero)) / (one + o.exp(zero - o.abs(x)))


def _clipped(o, x, low, high):
    return o.minimum(o.maximum(x, o.constant(low)), o.constant(high))


def _hard_sigmoid(o, x):
    return _clipped(o, x + o.constant(3.0), 0.0, 6.0) / o.constant(6.0)


def _elu(o, x, alpha=1.0):
    zero = o.constant(0.0)
    return o.where(o.more(x, zero), x, o.constant(alpha) * o.expm1(o.minimum(x, zero)))


def _softplus(o, x, beta=1.0):
    return o.softplus(x) if beta == 1 else o.softplus(o.constant(beta) * x) / o.constant(beta)


def _gelu_tanh(o, x):
    inner = o.constant(math.sqrt(2 / math.pi)) * (x + o.constant(0.044715) * (x * x * x))
    return x * (o.constant(1.0) + o.tanh(inner)) * o.constant(0.5)


def _leaky_relu(o, x, slope=0.01):
    return o.where(o.at_least(x, o.constant(0.0)), x, o.constant(slope) * x)


SCALARS: dict[str, Any] = {
    "relu": lambda o, x: o.maximum(x, o.constant(0.0)),
    "relu6": lambda o, x: _clipped(o, x, 0.0, 6.0),
    "hard_tanh": lambda o, x: _clipped(o, x, -1.0, 1.0),
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "selu": lambda o, x: o.constant(1.0507009873554805) * _elu(o, x, 1.6732632423543772),
    "sigmoid": _sigmoid,
    "hard_sigmoid": _hard_sigmoid,
    "tanh": lambda o, x: o.tanh(x),
    "softsign": lambda o, x: x / (o.constant(1.0) + o.abs(x)),
    "softplus": _softplus,
    "gelu": lambda o, x: x * (o.constant(1.0) + o.erf(x * o.constant(math.sqrt(0.5)))) * o.constant(0.5),
    "gelu_tanh": _gelu_tanh,
    "silu": lambda o, x: x * _sigmoid(o, x),
    "hard_swish": lambda o, x: x * _hard_sigmoid(o, x),
    "mish": lambda o, x: x * o.tanh(o.softplus(x)),
}
