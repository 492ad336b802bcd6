"""Scalar activations of ordinary networks, each with its exact Lipschitz constant, rounded up (docs/plain.md)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax.config import is_number
from lipjax.layers import plain
from lipjax.layers.checks import check_field
from lipjax.layers.layer import Layer, Proof, norm_at_zero
from lipjax.layers.rounding import enlarged, gamma, underflow

# Units of roundoff by which exp, expm1, log1p, tanh and erf are off, relative to their results; measured: at most 7.
ELEMENTARY = 16.0

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805  # Klambauer et al., NeurIPS 2017
_ROOT_2_OVER_PI = math.sqrt(2 / math.pi)


def _sigmoid(x):
    """1 / (1 + e^−x), by the exponential of −|x|."""
    e = jnp.exp(-jnp.abs(x))
    return jnp.where(x >= 0, 1, e) / (1 + e)


def _softplus(x, beta):
    """log(1 + e^(β x)) / β."""
    z = beta * x
    return (jnp.maximum(z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z)))) / beta


def _hard_sigmoid(x):
    return jnp.clip(x + 3, 0, 6) / 6


def _elu(x, alpha):
    return jnp.where(x > 0, x, alpha * jnp.expm1(jnp.minimum(x, 0)))


class Scalar(NamedTuple):
    """A function of one number.

    Attributes:
      run: (x, parameter) → f(x), in the dtype of x.
      lipschitz: of the parameter, max |f'|, rounded up.
      at_zero: of the parameter, |f(0)|, rounded up.
      relative, absolute: in units of roundoff, what f is off by: relative |x| + absolute.
      parameter: what it is called, '' where there is none, and ...
      default: ... its value if not given.
    """

    run: Callable
    lipschitz: Callable[[float], float]
    at_zero: Callable[[float], float] = lambda _: 0.0
    relative: Callable[[float], float] = lambda _: 0.0
    absolute: Callable[[float], float] = lambda _: 0.0
    parameter: str = ""
    default: float = 0.0


def _constant(value: float) -> Callable[[float], float]:
    return lambda _: value


_ONE, _E = _constant(1.0), ELEMENTARY

# Slopes f' and where |f'| is largest:
#   gelu        Φ + x φ, with the derivative (2 − x²) φ: at √2, 1.128904145185154786…
#   gelu_tanh   at 1.418504…, 1.128993068658771765…
#   silu        σ + x σ (1 − σ): where x tanh(x/2) = 2, 1.099839320128866916…
#   mish        at 1.490571…, 1.088498161251727861…
#   hard_swish  (2 x + 3) / 6 at 3; selu: λ α at −0
# Roundings: an exponential of −|x| is off by ELEMENTARY units of itself; then units as operations follow.  expm1(x), x
# <= 0, may be 2 t / (1 − t) with t = tanh(x/2), half as much again.  Where
# 1 + erf and 1 + tanh cancel, they are off by that part of 2 at most, and for an argument off by n units by n |x f'(x)|
# <= n/2 more.
SCALARS: dict[str, Scalar] = {
    "relu": Scalar(lambda x, _: jnp.maximum(x, 0), _ONE),
    "relu6": Scalar(lambda x, _: jnp.clip(x, 0, 6), _ONE),
    "abs": Scalar(lambda x, _: jnp.abs(x), _ONE),
    "hard_tanh": Scalar(lambda x, _: jnp.clip(x, -1, 1), _ONE),
    "leaky_relu": Scalar(
        lambda x, slope: jnp.where(x >= 0, x, slope * x),
        lambda slope: max(1.0, abs(slope)),
        relative=lambda slope: 2 * abs(slope),
        parameter="slope",
        default=0.01,
    ),
    "elu": Scalar(
        _elu,
        lambda alpha: max(1.0, abs(alpha)),
        relative=lambda alpha: (1.5 * _E + 4) * abs(alpha),
        parameter="alpha",
        default=1.0,
    ),
    "selu": Scalar(
        lambda x, _: _SELU_SCALE * _elu(x, _SELU_ALPHA), _constant(1.758099340847378), relative=_constant(3 * _E + 12)
    ),
    "sigmoid": Scalar(lambda x, _: _sigmoid(x), _constant(0.25), _constant(0.5), absolute=_constant(_E + 3)),
    "hard_sigmoid": Scalar(
        lambda x, _: _hard_sigmoid(x), _constant(math.nextafter(1 / 6, 1)), _constant(0.5), _ONE, _constant(4.0)
    ),
    "tanh": Scalar(lambda x, _: jnp.tanh(x), _ONE, relative=_constant(_E)),
    "softsign": Scalar(lambda x, _: x / (1 + jnp.abs(x)), _ONE, relative=_constant(3.0)),
    "softplus": Scalar(
        _softplus,
        _ONE,
        lambda beta: math.log(2) / beta * (1 + 1e-15),
        relative=_constant(2 * _E + 6),
        absolute=lambda beta: (2 * _E + 6) / beta,
        parameter="beta",
        default=1.0,
    ),
    "gelu": Scalar(
        lambda x, _: x * (1 + jax.lax.erf(x * math.sqrt(0.5))) / 2,
        _constant(1.128904145185155),
        relative=_constant(_E + 6),
    ),
    "gelu_tanh": Scalar(
        lambda x, _: x * (1 + jnp.tanh(_ROOT_2_OVER_PI * (x + 0.044715 * x**3))) / 2,
        _constant(1.128993068658772),
        relative=_constant(_E + 12),
    ),
    "silu": Scalar(lambda x, _: x * _sigmoid(x), _constant(1.099839320128867), relative=_constant(_E + 4)),
    "hard_swish": Scalar(lambda x, _: x * _hard_sigmoid(x), _constant(1.5), relative=_constant(5.0)),
    "mish": Scalar(
        lambda x, _: x * jnp.tanh(_softplus(x, 1.0)), _constant(1.088498161251728), relative=_constant(3 * _E + 12)
    ),
}


class Activation(Layer):
    """f(x) of each number, (…) → (…), f one of SCALARS: relu, leaky_relu, sigmoid, tanh, softplus, gelu, silu, …

    Bound: max |f'|: 1 for relu, relu6, abs, tanh, hard_tanh, softsign and softplus, max(1, |slope|) for leaky_relu,
    max(1, |alpha|) for elu, 1/4 for sigmoid, 1/6 for hard_sigmoid, 3/2 for hard_swish, and rounded up
    1.128904145185155 for gelu, 1.128993068658772 for gelu_tanh, 1.099839320128867 for silu, 1.088498161251728 for mish,
    1.758099340847378 for selu.

    Rounding: of exp, expm1, log1p, tanh and erf ELEMENTARY = 16 units (measured: 7 at most), one for each operation.

    Source: elementary (docs/plain.md).

    Attributes:
      function: a key of SCALARS.
      parameter: slope of leaky_relu (None: 0.01), alpha of elu (1), beta of softplus (1, positive); None for others.

    Raises:
      ValueError: another function; a parameter that the function does not have, or beyond ±1e6.
    """

    function: str = "relu"
    parameter: float | None = None

    def __post_init__(self):
        check_field("Activation", "function", self.function, (f"one of {tuple(SCALARS)}", lambda f: f in SCALARS))
        scalar, value = SCALARS[self.function], self.parameter
        if not scalar.parameter:
            check_field("Activation", "parameter", value, (f"None for {self.function}", lambda given: given is None))
        else:
            value = scalar.default if value is None else value
            low = 1e-6 if scalar.parameter == "beta" else -1e6
            allowed = f"a number from {low:g} to 1e6, the {scalar.parameter} of {self.function}"
            fits = is_number(value) and low <= value <= 1e6 and (value == 0 or abs(value) >= 1e-30)
            check_field("Activation", "parameter", value, (allowed, lambda _: fits))
            object.__setattr__(self, "parameter", float(value))
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        del train
        return SCALARS[self.function].run(x, self.parameter)

    @nn.nowrap
    def proof(self, own, shape):
        scalar, value, entries = SCALARS[self.function], self.parameter or 0.0, math.prod(shape)
        named = f", {scalar.parameter} {value:g}" if scalar.parameter else ""
        lipschitz, offset = scalar.lipschitz(value), norm_at_zero(np.array(scalar.at_zero(value)), (*shape, 1))
        lost = underflow(entries, 8 * (1 + abs(value) + scalar.absolute(value)))
        absolute = gamma(scalar.absolute(value)) * math.sqrt(entries) + lost
        rounding = enlarged(gamma(scalar.relative(value)), absolute)
        return Proof(f"activation '{self.function}'{named}", lipschitz, "max |f'|", offset, rounding=rounding)

    @nn.nowrap
    def plain(self, own, shape):
        parameter = SCALARS[self.function].parameter
        return [plain.activation(self.function, **({parameter: self.parameter} if parameter else {}))]
