"""Optimisers and schedules by the names of optax, with their own arguments; by default the paper's."""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from optax.contrib import MuonDimensionNumbers

from lipjax.config import check, integer, is_number, number, or_none
from lipjax.models import Classifier

# What ours differ in from optax's defaults.
DEFAULTS: dict[str, dict[str, Any]] = {"sgd": {"momentum": 0.9}}


class Optimizer:
    """The section config.optimizer.

    Weight decay is on the parameters that the layers say (`Classifier.decayed`): handed to an optimiser that has
    `weight_decay` and `mask` of its own, such as adamw, and otherwise added to the gradient before it.

    Args:
      name: of a function of optax or optax.contrib with a learning_rate, such as 'sgd' (the paper's, with momentum
        0.9), 'adamw', 'nadam', 'lion' or 'muon', which orthogonalises the updates of kernels (k, k, C, C') as matrices
        (k k C, C').  Schedule-free ones, which train an average of parameters, are not among them: layers bring their
        parameters back to a fixed size after each step, and an average of what was brought back is none of what was.
      learning_rate: the largest.
      weight_decay: of the parameters that the layers say.
      clip_norm: of the global gradient; None or 0: no clipping.
      lookahead: None, or so many steps k: every k steps the parameters return half way to where they were k steps
        before (Zhang et al., 2019).
      schedule: {'name': …, and its arguments}: 'drops' with milestones=(0.5, 0.75) and factor=0.1, the paper's: after
        these fractions of the steps the rate is multiplied by it; or a schedule of optax, such as
        'warmup_cosine_decay_schedule'.  There the peak, initial or only value is the learning rate, unless given, and
        the steps are those of the whole run; a number of steps that is given below 1 is a fraction of these.
      own: arguments of that optimiser.

    Raises:
      ValueError: "KEY=VALUE: must be …", also for names and arguments that optax does not have.
    """

    def __init__(
        self,
        name: str = "sgd",
        *,
        learning_rate: float = 0.1,
        weight_decay: float = 5e-4,
        clip_norm: float | None = None,
        lookahead: int | None = None,
        schedule: Mapping[str, Any] | None = None,
        **own: Any,
    ):
        shared = {"learning_rate": learning_rate, "weight_decay": weight_decay, "clip_norm": clip_norm}
        shared["lookahead"] = lookahead
        check(shared, lookahead=or_none(integer(1)))
        check(shared, learning_rate=number(0), weight_decay=number(0), clip_norm=or_none(number(0)))
        self._function = _of_optax("name", name, "an optimiser", {"learning_rate"})
        takes = inspect.signature(self._function).parameters
        for key, value in own.items():
            if key not in takes or key in _OURS:
                allowed = sorted({"clip_norm", "lookahead", "schedule", "weight_decay", *takes} - set(_OURS))
                raise ValueError(f"{key}={value!r}: unknown key of {name}; allowed: {', '.join(allowed)}")
        self._own = {**DEFAULTS.get(name, {}), **own}
        self._mask = next((key for key in ("mask", "weight_decay_mask") if key in takes), None)
        self._matrices = (
            {"muon_weight_dimension_numbers": _matrices} if "muon_weight_dimension_numbers" in takes else {}
        )
        schedule = {"name": "drops"} if schedule is None else dict(schedule)
        self._schedule = functools.partial(_schedule, schedule, learning_rate)
        self._schedule(_MANY)
        self.options = {
            **{"name": name, **shared, **self._own},
            "schedule": {**_DROPS, **schedule} if schedule.get("name") == "drops" else schedule,
        }

    def transformation(self, model: Classifier, steps: int) -> optax.GradientTransformation:
        """The optax transformation for a run of so many steps.

        Raises:
          ValueError: "config.optimizer.KEY=VALUE: …", of a schedule that does not fit into them.
        """
        try:
            self._schedule(steps)
        except ValueError as error:
            raise ValueError(f"config.optimizer.{error}") from error
        rate, decay, clip_norm = self._schedule(steps), self.options["weight_decay"], self.options["clip_norm"]
        clip, own = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity(), self._own | self._matrices

        def decayed(params):  # what a loss has beside the network is not
            network = {name: tree for name, tree in params.items() if name != "loss"}
            return {**model.decayed(network), **{name: False for name in params if name == "loss"}}

        if self._mask:
            parts = [clip, self._function(rate, weight_decay=decay, **{self._mask: decayed}, **own)]
        else:
            parts = [clip, optax.add_decayed_weights(decay, mask=decayed), self._function(rate, **own)]
        period = self.options["lookahead"]
        return _looking_ahead(optax.chain(*parts), period) if period else optax.chain(*parts)


class _Lookahead(NamedTuple):
    """The inner state, the parameters of the last return, and the steps taken."""

    inner: Any
    slow: Any
    steps: jax.Array


def _looking_ahead(inner: optax.GradientTransformation, period: int) -> optax.GradientTransformation:
    """`inner`, and every `period` steps half way back to the parameters of `period` steps before."""

    def init(params):
        return _Lookahead(inner.init(params), params, jnp.zeros((), jnp.int32))

    def update(gradient, state, params):
        updates, inner_state = inner.update(gradient, state.inner, params)
        is_due = (state.steps + 1) % period == 0
        halfway = jax.tree.map(lambda slow, old, step: (slow + old + step) / 2, state.slow, params, updates)
        slow = jax.tree.map(lambda new, old: jnp.where(is_due, new, old), halfway, state.slow)
        updates = jax.tree.map(lambda new, old, step: jnp.where(is_due, new - old, step), halfway, params, updates)
        return updates, _Lookahead(inner_state, slow, state.steps + 1)

    return optax.GradientTransformation(init, update)


def _matrices(params: Any) -> Any:
    """How Muon sees parameters as matrices: kernels (k, k, C, C') and matrices; None, Adam, for the others."""

    def axes(leaf):
        return MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1) if leaf.ndim in (2, 4) else None

    return jax.tree.map(axes, params)


# Arguments of optimisers that are ours to give.
_OURS = ("mask", "weight_decay_mask", "muon_weight_dimension_numbers")

_MANY = 1_000_000_000  # of steps: enough for whatever is asked, before the run is known

_DROPS = {"milestones": (0.5, 0.75), "factor": 0.1}


def _drops(rate: float, steps: int, milestones: Any, factor: float) -> optax.Schedule:
    """The rate, multiplied by the factor after each milestone, a fraction of the steps."""
    is_list = isinstance(milestones, tuple | list) and all(is_number(m) and 0 < m < 1 for m in milestones)
    if not (is_list and list(milestones) == sorted(set(milestones))):
        raise ValueError(f"schedule.milestones={milestones!r}: must be increasing fractions in (0, 1)")
    if not (is_number(factor) and factor > 0):
        raise ValueError(f"schedule.factor={factor!r}: must be a positive number")
    at = [round(fraction * steps) for fraction in milestones]
    if len({0, *at, steps}) < len(at) + 2:
        raise ValueError(
            f"schedule.milestones={milestones!r}: must fall on different steps after the first, within the {steps} of "
            f"the run, got {at}; train longer, or set schedule.name=constant_schedule"
        )
    return optax.piecewise_constant_schedule(rate, dict.fromkeys(at, factor))


def _schedule(given: Mapping[str, Any], rate: float, steps: int) -> optax.Schedule:
    own = dict(given)
    name = own.pop("name", None)
    if name == "drops":
        for key, value in own.items():
            if key not in _DROPS:
                raise ValueError(f"schedule.{key}={value!r}: unknown key of drops; allowed: {', '.join(_DROPS)}")
        return _drops(rate, steps, **{**_DROPS, **own})
    function = _of_optax("schedule.name", name, "'drops' or a schedule", {"value", "init_value", "peak_value"})
    takes = inspect.signature(function).parameters
    for key, value in own.items():
        if key not in takes:
            raise ValueError(f"schedule.{key}={value!r}: unknown key of {name}; allowed: {', '.join(takes)}")
    whole = {key: _steps(key, value, steps) if _counts_steps(key) else value for key, value in own.items()}
    main = next(key for key in ("value", "peak_value", "init_value") if key in takes)
    filled = {main: rate, **dict.fromkeys({"decay_steps", "transition_steps"} & set(takes), steps)}
    filled |= {"init_value": 0.0} if main == "peak_value" and "init_value" in takes else {}
    filled |= (
        {"end_value": 0.0} if "end_value" in takes and takes["end_value"].default is inspect.Parameter.empty else {}
    )
    missing = [k for k, p in takes.items() if p.default is p.empty and k not in {**filled, **whole}]
    if missing:
        raise ValueError(f"schedule.{missing[0]}: missing; {name} needs it")
    try:
        schedule = function(**{**filled, **whole})
        schedule(0)
    except (TypeError, ValueError) as error:
        raise ValueError(f"schedule={dict(given)!r}: {error} (a run of {steps} steps)") from error
    return schedule


def _counts_steps(key: str) -> bool:
    return key.endswith("_steps") or key == "transition_begin"


def _steps(key: str, value: Any, steps: int) -> Any:
    """A number of steps, from a fraction of them too; a start or a warm-up must end within the run."""
    count = round(value * steps) if isinstance(value, float) and 0 <= value < 1 else value
    is_whole = isinstance(count, int | float) and not isinstance(count, bool) and count == int(count) and count >= 0
    if not is_whole or (key in ("warmup_steps", "transition_begin") and count >= steps):
        raise ValueError(
            f"schedule.{key}={value!r}: must be a fraction, or a whole number below the {steps} of the run"
        )
    return int(count)


def _of_optax(key: str, name: Any, what: str, one_of: set[str]) -> Callable[..., Any]:
    """The function of optax with that name and one of these parameters."""
    function: Any = None
    if isinstance(name, str) and re.fullmatch(r"[a-z]\w*", name):
        function = getattr(optax, name, None) or getattr(optax.contrib, name, None)
    if function is not None and str(name).startswith("schedule_free"):
        raise ValueError(f"{key}={name!r}: averages parameters, which layers here bring back to a size after each step")
    is_function = inspect.isfunction(function) or isinstance(function, functools.partial)
    if not is_function or not one_of & set(inspect.signature(function).parameters):
        raise ValueError(
            f"{key}={name!r}: must be {what} of optax or optax.contrib, a function with {' or '.join(sorted(one_of))}"
        )
    return function
