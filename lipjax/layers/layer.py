"""A layer states its proof; a container proves by the very tuple that it runs (docs/soundness.md)."""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lipjax.layers.rounding import Rounding
from lipjax.system import printed

Variables = Mapping[str, Any]
Shape = tuple[int, ...]


class Proof(NamedTuple):
    """What is proven of a map f: ‖f(u) − f(v)‖ <= lipschitz ‖u − v‖ for all u, v, and ‖f(0)‖ <= offset.

    Attributes:
      kind: what f computes.
      lipschitz: the bound.
      why: how it was obtained.
      offset: the bound of ‖f(0)‖.
      norm: of a convolution p(A), the proven bound of ‖A‖; None for other maps.
      rounding: of the executed map, (relative, absolute), see `layers.rounding`; None: not stated, so that certificates
        are about real arithmetic.
      parts: of a container, its layers by name with their proofs, in order.
    """

    kind: str
    lipschitz: float
    why: str
    offset: float = 0.0
    norm: float | None = None
    rounding: Rounding | None = None
    parts: tuple[tuple[str, "Proof"], ...] = ()

    def links(self, name: str = "") -> list[tuple[str, "Proof"]]:
        """The proofs without parts, by path, in order."""
        if not self.parts:
            return [(name, self)]
        return [link for part, proof in self.parts for link in proof.links("/".join(filter(None, (name, part))))]

    def __str__(self) -> str:
        lines = [f"{self.kind}: {printed.upper(self.lipschitz, '.6g')}  ({self.why})"]
        for name, part in self.parts:
            first, *rest = str(part).splitlines()
            lines += [f"  {name}  {first}" if name else f"  {first}", *(f"  {line}" for line in rest)]
        return "\n".join(lines)


def up(x: float) -> float:
    """The next float64 above: covers one rounding to nearest."""
    return math.nextafter(x, math.inf)


def times(bound: float, factor: float) -> float:
    """The product of two bounds, rounded up."""
    return bound if factor == 1.0 else up(bound * factor)


def product(factors: Iterable[float]) -> float:
    """The product of bounds, rounded up."""
    return functools.reduce(times, factors, 1.0)


def root_sum_of_squares(bounds: Iterable[float]) -> float:
    """(Σ b²)^½, rounded up; the sum itself where a square would leave the range of float64."""
    squares, plain = 0.0, 0.0
    for bound in bounds:
        squares, plain = up(squares + up(bound * bound)), up(plain + bound)
    is_in_range = all(bound == 0 or 1e-150 < bound < 1e150 for bound in bounds)
    return min(up(math.sqrt(squares)), plain) if is_in_range else plain


def plain_proof(proof: Any) -> Any:
    """A proof with its bounds as Python floats: those of numpy would be multiplied in their own precision."""
    if not isinstance(proof, Proof):
        return proof
    rounding = None if proof.rounding is None else Rounding(*map(float, proof.rounding))
    return proof._replace(lipschitz=float(proof.lipschitz), offset=float(proof.offset), rounding=rounding)


def checked_proof(name: str, proof: Any) -> Proof:
    """The proof; ValueError, by the name of the layer, unless it is a `Proof` with bounds that are finite and >= 0."""
    if not isinstance(proof, Proof):
        raise ValueError(f"{name}: its proof must be a lipjax Proof, got {proof!r}")
    parts = tuple((part, checked_proof(f"{name}/{part}", inner)) for part, inner in proof.parts)
    for field, values in {
        "lipschitz": (proof.lipschitz,),
        "offset": (proof.offset,),
        "rounding": proof.rounding or (),
    }.items():
        for value in values:
            if not 0 <= float(value) < math.inf:
                raise ValueError(f"{name}: {field} must be a finite number >= 0, got {value!r}")
    return plain_proof(proof)._replace(parts=parts)


# What a class may define without changing what it computes: documentation and fields.
_SILENT = {
    *("__module__", "__qualname__", "__doc__", "__annotations__", "__firstlineno__", "__static_attributes__"),
    *("__annotate__", "__annotate_func__", "__annotations_cache__", "__orig_bases__", "__parameters__"),
}

# What each checked class defines, read before Flax adds attributes of its own, and all that it has after that.
_defined: dict[type, set[str]] = {}
_snapshots: dict[type, dict[str, Any]] = {}


def check_states(cls: type, statement: str) -> None:
    """Raise TypeError unless what `cls` computes is what the nearest `statement`, a method, is about.

    The classes between `cls` and the one that makes the statement must be silent: they may set fields, and define
    nothing else, nor a field in the place of anything that is none.  The bases of that one must be those it was written
    for, so that no mixin comes in between.
    """
    maker = next(base for base in cls.__mro__ if statement in vars(base))
    position = cls.__mro__.index(maker)
    for base in cls.__mro__[:position]:
        own = _defined[base] if base in _defined else vars(base).keys() - _SILENT
        loud = sorted(name for name in own | set(_annotated(base)) if not _is_field(cls, base, name))
        if loud:
            raise TypeError(
                f"{cls.__name__}: {base.__name__} defines {', '.join(loud)} and no {statement} of its own; that of "
                f"{maker.__name__} may not be true of it"
            )
    if cls.__mro__[position:] != maker.__mro__:
        raise TypeError(
            f"{cls.__name__}: a base comes between {maker.__name__}, which states {statement}, and its bases"
        )
    _defined[cls] = set(vars(cls)) - _SILENT


def _annotated(cls: type) -> Mapping[str, Any]:
    return vars(cls).get("__annotations__", {})


def _is_field(cls: type, base: type, name: str) -> bool:
    """Whether a name that a base defines is a field with a plain default, and hides nothing but fields."""
    value = vars(base).get(name)
    value = value.default if isinstance(value, dataclasses.Field) else value
    if name not in _annotated(base) or hasattr(value, "__get__") or "ClassVar" in str(_annotated(base)[name]):
        return False
    lower = cls.__mro__[cls.__mro__.index(base) + 1 :]
    return all(name in _annotated(other) for other in lower if name in vars(other))


# What Flax writes anew in a class when another one inherits from it.
_REWRITTEN = {"__dataclass_fields__", "__annotations__", "__annotations_cache__", "__annotate_func__"}


def remember(cls: type) -> None:
    """Keep what a class is now, for `check_unchanged`."""
    _snapshots[cls] = dict(vars(cls))


def check_unchanged(module: nn.Module) -> None:
    """Raise TypeError unless the classes of a module are those that were checked where they were defined."""
    if type(type(module)) is not type(nn.Module):
        raise TypeError(f"{type(module).__name__}: has a metaclass of its own, {type(type(module)).__name__}")
    for cls in type(module).__mro__:
        if cls is nn.Module:
            return
        if not issubclass(cls, nn.Module):
            continue
        known = _snapshots.get(cls)
        if known is None:
            raise TypeError(f"{cls.__name__}: was not checked where it was defined (its bases hide __init_subclass__)")
        now = {name: value for name, value in vars(cls).items() if name not in _REWRITTEN}
        changed = [name for name, value in now.items() if known.get(name, known) is not value]
        changed += [name for name in known if name not in vars(cls)]
        if changed:
            raise TypeError(f"{cls.__name__}: {', '.join(sorted(changed))} has been changed since it was defined")


_PLAIN: dict[type, Callable[[Any], Any]] = {int: int.__int__, float: float.__float__, str: str.__str__}


def remade(module: Any) -> Any:
    """The module made anew from its fields, all the way down: checked again, and shared with nobody.

    Numbers and names are plain ones: those of a class of one's own could be others each time they are read.
    """
    if isinstance(module, tuple) and type(module) is tuple:
        return tuple(remade(entry) for entry in module)
    for plain, taken in _PLAIN.items():
        if isinstance(module, plain) and type(module) not in (plain, bool):
            return taken(module)
    if not isinstance(module, nn.Module):
        return module
    check_unchanged(module)
    names = [field.name for field in dataclasses.fields(module) if field.init]  # type: ignore[arg-type]
    own = {name: remade(getattr(module, name)) for name in names if name not in ("parent", "name")}
    return type(module)(**own, parent=None, name=None)


def decay_mask(decayed: Collection[str], params: Mapping[str, Any]) -> dict[str, Any]:
    """The tree of params with True under the names in `decayed`."""
    return {name: jax.tree.map(lambda _, d=name in decayed: d, leaf) for name, leaf in params.items()}


class Layer(nn.Module):
    """A map of one array (N, …) to another, and what is true of it.

    A class with something of its own to compute defines `__call__` and `proof`, and is refused, with a TypeError where
    it is defined, if it changes anything of a layer and states no proof.  What `proof` says must hold for the variables
    that it is given, in evaluation (train=False), whatever they are.

    `own` are the variables of this layer alone, {'params': …, 'spectral': …}; `shape` is that of its input without the
    batch, (H, W, C) or (D,).
    """

    decayed: ClassVar[tuple[str, ...]] = ()  # the parameters that weight decay applies to

    @classmethod
    def __init_subclass__(cls, **keywords: Any) -> None:
        check_states(cls, "proof")
        super().__init_subclass__(**keywords)
        remember(cls)

    @nn.nowrap
    def proof(self, own: Variables, shape: Shape) -> Proof:
        """What is proven of the layer with these variables; ValueError where nothing is."""
        raise NotImplementedError

    @nn.nowrap
    def estimate(self, own: Variables, shape: Shape) -> jax.Array | float:
        """The bound as training takes it: traced, differentiable, 1 unless a layer says otherwise.

        A loss that knows of margins uses it (`Classifier.estimated_bound`); no certificate does.
        """
        return 1.0

    @nn.nowrap
    def evaluate(self, own: Variables, x: jax.Array) -> jax.Array:
        """The layer in evaluation, by itself: what `proof` is about."""
        return self.apply(own, x, False)  # type: ignore[return-value]

    @nn.nowrap
    def output_shape(self, own: Variables, shape: Shape) -> Shape:
        """Of the output, without the batch."""
        dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(own))  # a convolution refuses an image of another one
        return jax.eval_shape(self.evaluate, own, jax.ShapeDtypeStruct((1, *shape), dtype)).shape[1:]

    @nn.nowrap
    def plain(self, own: Variables, shape: Shape) -> list[dict[str, Any]]:
        """The layer in evaluation as plain layers one after the other (docs/export.md), constants in float64.

        They are off by no more than `proof` counts for them.  ValueError for a layer that does not say how.
        """
        layer, its = self.folded(own, shape)
        if layer is self:
            name = type(self).__name__
            raise ValueError(f"{name}: has no plain form, so no network with it can be exported (docs/export.md)")
        return layer.plain(its, shape)

    @nn.nowrap
    def decay_mask(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The tree of params with True where weight decay applies."""
        return decay_mask(self.decayed, params)

    @nn.nowrap
    def projected(self, own: Variables) -> Variables:
        """After a training step: brought back to where the variables belong."""
        return own

    @nn.nowrap
    def settled(self, own: Variables) -> Variables:
        """With what follows the parameters (tracked norms) caught up."""
        return own

    @nn.nowrap
    def tightened(self, own: Variables, shape: Shape) -> Variables:
        """After training: settled, and such that the proof is as good as the layer can have it."""
        return self.settled(own)

    @nn.nowrap
    def folded(self, own: Variables, shape: Shape) -> tuple["Layer", Variables]:
        """(layer, its variables): the same map for evaluation, faster and without the state of training."""
        return self, own


remember(Layer)


def isometry(kind: str, why: str, offset: float = 0.0, rounding: Rounding | None = None) -> Proof:
    """The proof of a map that enlarges no distance."""
    return Proof(kind, 1.0, why, offset, rounding=rounding)


def norm_at_zero(values: np.ndarray, shape: Shape) -> float:
    """A bound of ‖f(0)‖ where the channels of f(0) are bounded by `values` at every pixel, rounding included."""
    largest = float(np.abs(values).max(initial=0.0))
    if not 0 < largest < math.inf:  # nothing to scale by; nan and inf are refused where proofs are checked
        return largest
    pixels = math.prod(shape[:-1])
    scaled = np.linalg.norm(np.asarray(values, np.float64) / largest) * math.sqrt(pixels) * largest
    return float(scaled) * (1 + (np.size(values) + 8) * np.finfo(float).eps)


def own_of(variables: Variables, name: str) -> Variables:
    """The variables of the child `name`; a child without a name shares those of its container."""
    if not name:
        return variables
    return {collection: tree[name] for collection, tree in variables.items() if name in tree}


def tracked(own: Variables, kind: str) -> Mapping[str, Any]:
    """The 'spectral' variables of a layer of that kind, ValueError where there are none."""
    if not own.get("spectral"):
        raise ValueError(
            f"variables: {kind} has no 'spectral' collection, its tracked norms; give {{'params': …, 'spectral': …}}, "
            "both as init, training or load_trained returns them"
        )
    return own["spectral"]


def with_own(variables: Variables, name: str, own: Variables) -> Variables:
    """The variables with those of the child `name` replaced."""
    if not name:
        return own
    replaced = {}
    for collection in {**variables, **own}:
        replaced[collection] = {key: tree for key, tree in variables.get(collection, {}).items() if key != name}
        if collection in own:
            replaced[collection][name] = own[collection]
    return replaced
