"""Networks: a backbone of layers that state their proof, and a head that states its certificate."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from lipjax.layers import HEADS, Container, Head, Layer
from lipjax.layers.container import check_layer, names_of
from lipjax.layers.layer import Proof, Variables, checked_proof, own_of, remember, with_own

# What a class of networks may define of what it inherits; what each defines, read before Flax adds its own.
_OWN = {"__module__", "__qualname__", "__doc__", "__annotations__", "parts", "image_shape", "__post_init__"}
_OWN |= {"__dict__", "__weakref__", "__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__"}
_defined: dict[type, set[str]] = {}


class Classifier(nn.Module):
    """Images in [0, 1] → logits h(g(x)), g the backbone, h the head: what `parts` gives, and nothing else.

    `apply(variables, x, train=False)` maps x, NHWC, to logits (N, num_classes); `method='features'` gives g(x), (N, D).
    In training pass mutable=['spectral'], so that what is tracked follows the parameters.  A class of networks has
    fields, `image_shape` and `parts`; one that changes how they are run is refused where it is defined.
    """

    @classmethod
    def __init_subclass__(cls, **keywords: Any) -> None:
        run = set(dir(nn.Module)) | {name for name in vars(Classifier) if name not in _OWN}
        for base in cls.__mro__[: cls.__mro__.index(Classifier)]:
            defined = _defined[base] if base in _defined else set(vars(base)) - _OWN
            theirs = (defined | set(vars(base).get("__annotations__", {}))) & run - _OWN - {"parent", "name"}
            if theirs:
                names = ", ".join(sorted(theirs))
                raise TypeError(f"{cls.__name__}: a network defines parts and fields, not {names}")
        _defined[cls] = set(vars(cls)) - _OWN
        super().__init_subclass__(**keywords)
        remember(cls)

    @nn.nowrap
    def parts(self) -> tuple[Layer, Head]:
        """(backbone, head), made with parent=None; the head's variables are under 'head', the backbone's beside it."""
        raise NotImplementedError

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(H, W, C) of the images; None where any will do."""
        raise NotImplementedError

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Logits (N, num_classes)."""
        return self.classify(self.features(x, train), train)

    def features(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Penultimate features g(x), (N, D)."""
        if self.image_shape is not None and x.shape[1:] != tuple(self.image_shape):
            expected = ", ".join(map(str, self.image_shape))
            raise ValueError(f"{type(self).__name__}: images must have shape (N, {expected}), got {x.shape}")
        return self.parts()[0].clone(parent=self.scope, name=None)(x, train)

    def classify(self, features: jax.Array, train: bool = False) -> jax.Array:
        """The head alone: features (N, D) → logits (N, num_classes)."""
        assert self.scope is not None
        return self.parts()[1].clone(parent=self.scope.push("head", reuse=True), name=None)(features, train)

    @nn.nowrap
    def num_outputs(self) -> int:
        """The classes of the head."""
        return self.parts()[1].num_classes

    @nn.nowrap
    def decayed(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The tree of params with True where weight decay applies, as the layers say."""
        backbone, head = self.parts()
        rest = {name: tree for name, tree in params.items() if name != "head"}
        return {**backbone.decay_mask(rest), "head": head.decay_mask(params["head"])}

    @nn.nowrap
    def projected(self, variables: Variables) -> Variables:
        """After a training step: brought back to where the variables belong; the network stays the same."""
        return self.parts()[0].projected(variables)

    @nn.nowrap
    def settled(self, variables: Variables) -> Variables:
        """With every tracked norm caught up with its kernel."""
        return self.parts()[0].settled(variables)

    @nn.nowrap
    def tightened(self, variables: Variables, image_shape: tuple[int, ...] | None = None) -> Variables:
        """After training, before evaluation: settled, and each layer such that its proof is as good as can be."""
        return self.parts()[0].tightened(variables, self.shape_of_images(image_shape))

    @nn.nowrap
    def estimated_bound(self, variables: Variables) -> jax.Array | float:
        """Lip(g) as training takes it: traced, differentiable, of the layers' estimates.  Never a proof."""
        return self.parts()[0].estimate(variables, self.shape_of_images())

    @nn.nowrap
    def shape_of_images(self, image_shape: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """(H, W, C), those of the network where it has any; ValueError where neither says or they differ."""
        own = None if self.image_shape is None else tuple(self.image_shape)
        given = None if image_shape is None else tuple(image_shape)
        if own is None and given is None:
            raise ValueError(f"{type(self).__name__}: give image_shape, (H, W, C); the network has none of its own")
        if None not in (own, given) and own != given:
            raise ValueError(f"{type(self).__name__}: image_shape={given} must be {own}, that of the network")
        return own if own is not None else given  # type: ignore[return-value]

    @nn.nowrap
    def lipschitz_bound(self, variables: Variables, image_shape: tuple[int, ...] | None = None) -> float:
        """A proven bound of Lip(g), pixels to features, rounded up: that of `models.prove`."""
        return proof_of(self.parts()[0], variables, self.shape_of_images(image_shape)).lipschitz


def proof_of(backbone: Layer, variables: Variables, image_shape: tuple[int, ...]) -> Proof:
    """The proof of a backbone; ValueError unless all that its layers state are finite numbers >= 0."""
    return checked_proof("backbone", backbone.proof(variables, image_shape))


remember(Classifier)


class Network(Classifier):
    """A network of one's own.

    Attributes:
      backbone: a `Layer`, such as `Sequential`, from images to features (N, D).
      head: a `Head` of these features.
      image_shape: (H, W, C); None: any that the layers take.

    Raises:
      TypeError: a backbone that is no `Layer`, a head that is no `Head`.
    """

    backbone: Layer
    head: Head
    image_shape: tuple[int, int, int] | None = None  # type: ignore[assignment]

    def __post_init__(self):
        check_layer("Network: backbone", self.backbone)
        if not isinstance(self.head, Head):
            kind = type(self.head).__name__
            raise TypeError(f"Network: head must be a lipjax Head, which states its certificate; {kind} is none")
        if isinstance(self.backbone, Container) and "head" in names_of(self.backbone.children()):
            raise ValueError("Network: a layer has the name 'head', under which the variables of the head are")
        super().__post_init__()

    @nn.nowrap
    def parts(self):
        return self.backbone, self.head


def named_head(name: str, num_classes: int, hidden: int) -> Head:
    """The head of HEADS of that name for so many classes, with so many hidden units if it has any."""
    kind: Any = HEADS[name]
    own = {"hidden": hidden} if "hidden" in kind.__dataclass_fields__ else {}
    return kind(num_classes=num_classes, **own, parent=None)


def fold(model: Classifier, variables: Variables, image_shape=None) -> tuple[Network, dict[str, Any]]:
    """(model, variables) of the same network for evaluation: faster, without the state of training.

    Kernels are normalised once, and convolutions of few pixels become the matrix of p(A) (`layers.folded`).  Outputs
    agree up to rounding.  `lipschitz_bound` of the result bounds the folded network itself.
    """
    backbone, head = model.parts()
    shape = model.shape_of_images(image_shape)
    params = own_of({"params": variables["params"]}, "head")
    rest = {collection: {k: v for k, v in tree.items() if k != "head"} for collection, tree in variables.items()}
    folded, own = backbone.folded(rest, shape)
    own = {collection: {k: v for k, v in tree.items() if v} for collection, tree in own.items()}
    return Network(folded, head, shape), with_own({c: t for c, t in own.items() if t}, "head", params)  # type: ignore
