"""Executes a jax function in an arithmetic of one's choice: with 50 digits, or with every rounding as bad as allowed.

The function is traced, and its primitives are carried out one by one.  Sums run in order, one product at a time.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import scipy.special

mpmath.mp.dps = 50


DIRECTIONS = ("up", "down", "rise", "fall", "random")  # of an `Adversary`


class Digits50:
    """50 decimal digits; arrays of mpmath numbers."""

    present = ""

    def of(self, x):
        """Floats as numbers of this arithmetic."""
        return np.frompyfunc(mpmath.mpf, 1, 1)(np.asarray(x, object)) if np.ndim(x) else np.array(mpmath.mpf(float(x)))

    constant = of

    def rounded(self, x):
        return x

    def function(self, name, x):
        return np.frompyfunc(getattr(mpmath, name), 1, 1)(x)


class Adversary:
    """Float64 with unit roundoff 2^−24: each result is off by that part of itself, where `direction` says.

    up, down: away from and towards 0; rise, fall: towards +∞ and −∞; random: any of them at each operation.  Constants
    of the program are rounded, too; sines are off by `sine` units, roots by `root`.  The primitives of `against` are
    off the other way.
    """

    unit = 2.0**-24

    def __init__(self, direction: str, seed: int = 0, sine: float = 4.0, root: float = 2.0, against=()):
        self.present, self._against = "", against
        self._direction, self._rng = direction, np.random.default_rng(seed)
        self._units = {"sin": sine, "cos": sine, "sqrt": root}

    def of(self, x):
        return np.asarray(x, np.float64)

    def constant(self, x):
        return self.rounded(x) if np.asarray(x).dtype.kind == "f" and not np.equal(np.round(x), x).all() else x

    def rounded(self, x, units=1.0):
        x = np.asarray(x, np.float64)
        sign = {"up": np.sign(x), "down": -np.sign(x), "rise": 1.0, "fall": -1.0}.get(self._direction)
        if sign is None:
            sign = self._rng.choice([-1.0, 1.0], size=x.shape)
        sign = -sign if self.present in self._against else sign
        return x + sign * units * self.unit * np.abs(x)

    def function(self, name, x):
        exact = (scipy.special.erf if name == "erf" else getattr(np, name))(x)
        if name in ("sin", "cos"):  # off by units of 1, not of the result
            sign = self.rounded(np.ones_like(exact)) - 1
            return exact + self._units[name] * sign
        return self.rounded(exact, self._units.get(name, 1.0))


def execute(arithmetic, function: Callable, *arguments) -> Any:
    """function(*arguments), float64 arrays, as numpy arrays of the arithmetic."""
    with jax.enable_x64(True):
        arguments = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), arguments)
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        inputs = [arithmetic.of(leaf) for leaf in jax.tree.leaves(arguments)]
        constants = [arithmetic.of(arithmetic.constant(np.asarray(c))) if _is_real(c) else c for c in closed.consts]
        results = _run(arithmetic, closed.jaxpr, constants, inputs)
    return jax.tree.unflatten(jax.tree.structure(shape), results)


def distances(found, exact) -> np.ndarray:
    """‖found − exact‖ of each row of (N, …), (N,), in 50 digits where either has them."""
    squares = [sum((d * d for d in (a - b).ravel()), mpmath.mpf(0)) for a, b in zip(found, exact, strict=True)]
    return np.array([float(mpmath.sqrt(square)) for square in squares])


def _is_real(x) -> bool:
    return np.asarray(x).dtype.kind in "fO"


def _run(a, jaxpr, constants, inputs) -> list:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *inputs], strict=True))

    def read(atom):
        if not hasattr(atom, "val"):
            return values[atom]
        return a.of(a.constant(np.asarray(atom.val))) if _is_real(atom.val) else np.asarray(atom.val)

    for equation in jaxpr.eqns:
        results = _apply(a, equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_ARITHMETIC = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv}
_ARITHMETIC["add_any"] = operator.add
_PLAIN = {"max": np.maximum, "min": np.minimum, "neg": operator.neg, "abs": np.abs}
_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_COMPARE = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _apply(a, equation, inputs) -> list:
    name, params = equation.primitive.name, equation.params
    a.present = name
    if name == "scan":
        return _scan(a, params, inputs)
    if name == "platform_index":
        return [np.int32(len(params["platforms"]) - 1)]
    if name == "cond":
        index, *rest = inputs
        branch = params["branches"][int(np.clip(int(index), 0, len(params["branches"]) - 1))]
        return _run(a, branch.jaxpr, [a.of(c) if _is_real(c) else c for c in branch.consts], rest)
    inner = next((params[key] for key in _INNER if key in params), None)
    if inner is not None:
        consts = getattr(inner, "consts", [])
        return _run(a, getattr(inner, "jaxpr", inner), [a.of(c) if _is_real(c) else c for c in consts], inputs)
    if not any(_is_real(x) for x in inputs):  # of integers and booleans, and of nothing
        results = equation.primitive.bind(*map(jnp.asarray, inputs), **params)
        results = results if equation.primitive.multiple_results else [results]
        return [a.of(np.asarray(r)) if _is_real(r) else np.asarray(r) for r in results]
    result = _real(a, name, params, equation, inputs)
    return result if isinstance(result, list) else [result]


def _real(a, name, params, equation, inputs):
    x = inputs[0]
    if name in _ARITHMETIC:
        return a.rounded(_ARITHMETIC[name](x, inputs[1]))
    if name in _PLAIN:
        return _PLAIN[name](*inputs)
    if name in _COMPARISONS:
        return np.asarray(_COMPARE[_COMPARISONS[name]](x, inputs[1]), bool)
    if name in ("sqrt", "sin", "cos", "exp", "log1p", "expm1", "tanh", "erf"):
        return a.function(name, x)
    if name in ("square", "integer_pow"):
        power = params.get("y", 2)
        return functools.reduce(lambda p, q: a.rounded(p * q), [x] * power)
    if name == "convert_element_type":
        return x if np.dtype(params["new_dtype"]).kind == "f" else np.asarray(x, float).astype(params["new_dtype"])
    if name == "select_n":
        which, *cases = inputs
        which = np.broadcast_to(np.asarray(which, int), np.shape(cases[0]))
        return np.select([which == i for i in range(len(cases))], cases) if np.ndim(cases[0]) else cases[int(which)]
    if name == "is_finite":
        return np.ones(np.shape(x), bool)
    if name == "dot_general":
        return _dot(a, *inputs, params["dimension_numbers"])
    if name == "conv_general_dilated":
        return _convolution(a, *inputs, params)
    if name in ("reduce_window_sum", "reduce_window_max"):
        return _windows(a, x, params, np.maximum if name.endswith("max") else None)
    if name == "reduce_sum":
        return _sum(a, x, params["axes"])
    if name in ("reduce_max", "reduce_min"):
        return getattr(np, name[-3:])(x, axis=tuple(params["axes"]))
    return _moved(a, equation, inputs)


def _moved(a, equation, inputs):
    """A primitive that moves numbers: carried out on their places."""
    sizes = np.cumsum([0] + [np.size(x) if _is_real(x) else 0 for x in inputs])
    flat = np.concatenate([np.ravel(x) for x in inputs if _is_real(x)])
    places = [
        jnp.asarray(start + np.arange(np.size(x)).reshape(np.shape(x))) if _is_real(x) else jnp.asarray(x)
        for x, start in zip(inputs, sizes[:-1], strict=True)
    ]
    allowed = {
        *("reshape", "transpose", "broadcast_in_dim", "slice", "concatenate", "squeeze", "rev", "gather", "pad"),
        *("dynamic_slice", "expand_dims", "copy", "copy_p", "stop_gradient", "split", "stack"),
    }
    assert equation.primitive.name in allowed, equation.primitive.name
    moved = equation.primitive.bind(*places, **equation.params)
    if equation.primitive.multiple_results:
        return [flat[np.asarray(part)] for part in moved]
    return flat[np.asarray(moved)]


def _sum(a, x, axes):
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    x = np.transpose(x, (*axes, *kept)).reshape(-1, *(x.shape[axis] for axis in kept))
    return functools.reduce(lambda total, term: a.rounded(total + term), x)


def _dot(a, x, y, dimension_numbers):
    ((x_sum, y_sum), (x_batch, y_batch)) = dimension_numbers
    assert (len(x_sum), len(y_sum), x_batch, y_batch) == (1, 1, (), ())
    x, y = np.moveaxis(x, x_sum[0], -1), np.moveaxis(y, y_sum[0], 0)
    total = None
    for i in range(x.shape[-1]):
        term = a.rounded(np.multiply.outer(x[..., i], y[i]))
        total = term if total is None else a.rounded(total + term)
    return total


def _convolution(a, x, kernel, params):
    """NHWC, of any stride, padding, dilation and groups."""
    strides, dilation, groups = params["window_strides"], params["rhs_dilation"], params["feature_group_count"]
    around = ((0, 0), *params["padding"], (0, 0))
    zero = np.zeros([n + sum(by) for n, by in zip(x.shape, around, strict=True)], x.dtype) + x.ravel()[0] * 0
    inner = tuple(slice(before, before + n) for n, (before, _) in zip(x.shape, around, strict=True))
    zero[inner] = x
    of_group, outputs = kernel.shape[2], kernel.shape[3] // groups
    parts = []
    for group in range(groups):
        total = None
        for i, j, c in np.ndindex(*kernel.shape[:3]):
            part = _window(zero, (i, j), strides, dilation, kernel.shape[:2])[..., group * of_group + c]
            taps = kernel[i, j, c, group * outputs : (group + 1) * outputs]
            term = a.rounded(np.multiply.outer(part, taps))
            total = term if total is None else a.rounded(total + term)
        parts.append(total)
    return np.concatenate(parts, axis=-1)


def _window(padded, tap, strides, dilation, kernel):
    """What a tap reads of a padded image."""
    spans = []
    for n, t, s, d, k in zip(padded.shape[1:3], tap, strides, dilation, kernel, strict=True):
        count = (n - d * (k - 1) - 1) // s + 1
        spans.append(slice(d * t, d * t + s * (count - 1) + 1, s))
    return padded[:, spans[0], spans[1]]


def _windows(a, x, params, reduced):
    """Sums, or what `reduced` says, of windows of pixels."""
    size, strides = params["window_dimensions"][1:3], params["window_strides"][1:3]
    fill = -1e300 if reduced else 0.0
    sides = [n + sum(by) for n, by in zip(x.shape, params["padding"], strict=True)]
    padded = np.full(sides, fill).astype(x.dtype) if x.dtype != object else np.full(sides, mpmath.mpf(fill), object)
    padded[tuple(slice(by[0], by[0] + n) for n, by in zip(x.shape, params["padding"], strict=True))] = x
    terms = [_window(padded, tap, strides, (1, 1), size) for tap in np.ndindex(*size)]
    return functools.reduce(reduced or (lambda total, term: a.rounded(total + term)), terms)


def _scan(a, params, inputs):
    assert not params["reverse"]
    body = params["jaxpr"]
    if "ft_in" in params:  # since jax 0.11
        fixed, carry, _ = map(len, params["ft_in"].unpack())
    else:
        fixed, carry = params["num_consts"], params["num_carry"]
    constants, state, rows = inputs[:fixed], inputs[fixed : fixed + carry], inputs[fixed + carry :]
    stacked: list = []
    for i in range(params["length"]):
        found = _run(a, body.jaxpr, body.consts, [*constants, *state, *(row[i] for row in rows)])
        state, out = found[:carry], found[carry:]
        stacked.append(out)
    return [*state, *(np.stack(column) for column in zip(*stacked, strict=True))]
