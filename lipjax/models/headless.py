"""The bound of a backbone that has no head."""

from lipjax.layers import Layer, Proof
from lipjax.layers.container import check_layer
from lipjax.layers.layer import Variables, remade
from lipjax.models.network import proof_of
from lipjax.models.program import cast
from lipjax.models.proven import check_nobody_listens, copied_variables


def lipschitz_bound(backbone: Layer, variables: Variables, image_shape: tuple[int, ...]) -> Proof:
    """The proof of a backbone without a head, a tree; `.lipschitz` bounds Lip(g), l2 of images to l2 of what it gives.

    ‖g(u) − g(v)‖ <= lipschitz · ‖u − v‖ for all u, v of the shape, in real arithmetic with these very variables, cast
    up to float64; a network with a head has `lipjax.prove` and `Classifier.lipschitz_bound`.

    Args:
      backbone: a `Layer`, such as `Sequential`; variables: as its `init` or `tightened` gives them.
      image_shape: (H, W, C), or (D,), of one input.

    Raises:
      TypeError: what is no `Layer`, or one that was changed after its definition.
      ValueError: variables of half precision or not finite (named), a layer of which nothing is proven, a shape that a
        layer does not take, a method interceptor at work.
    """
    check_nobody_listens()
    check_layer("lipschitz_bound: backbone", backbone)
    own = cast(copied_variables(variables), "float64")
    return proof_of(remade(backbone.clone(parent=None, name=None)), own, tuple(image_shape))
