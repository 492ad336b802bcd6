"""BRONet (ICML 2025): LiResNet with a trunk of block reflectors, which is 1-Lipschitz by construction."""

from lipjax.config import check, integer, number, or_none
from lipjax.layers import BlockReflectorConv
from lipjax.models.liresnet import assembled, check_options
from lipjax.models.network import Network


def bronet(
    image_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int = 64,
    depth: int = 6,
    kernel_size: int = 3,
    rank: int | None = None,
    ridge: float = 1e-5,
    stem_kernel_size: int = 5,
    stem_stride: int = 2,
    neck_width: int | None = None,
    neck_stride: int = 4,
    dense_width: int = 256,
    dense_depth: int = 4,
    dense_kind: str = "cholesky",
    activation: str = "max_min",
    head: str = "lln",
    hidden: int = 4096,
    compute_dtype: str = "float32",
    remat: bool = False,
    mean: tuple[float, ...] | float = 0.5,
    std: float = 1.0,
) -> Network:
    """BRONet of images of any size: the skeleton of `liresnet`, whose other options are these.

    Each layer of the trunk is a `BlockReflectorConv` of rank width / 2, of a kernel that is divided by √depth and to
    which a partial identity is added, then `Centring` and the activation; only the stem is unconstrained.  The paper's
    CIFAR networks: width 512, depth 12, dense_width 2048, dense_depth 8.

    Args:
      image_shape: (H, W, C).
      rank: of each reflector, at most `width`; None: width / 2.
      ridge: of each, relative to the mean of diag V*V, from 1e-7 (the authors') to 0.01.
      width, depth, kernel_size: of the trunk, as in `liresnet`.
      stem_kernel_size, stem_stride, neck_width, neck_stride: of stem and neck, as in `liresnet`.
      dense_width, dense_depth, dense_kind, activation: of dense layers and activations, as in `liresnet`.
      head, hidden: 'lln' or 'crc', and hidden units of the latter.
      compute_dtype: of stem, neck and dense layers in training; reflectors are made in float32.
      remat, mean, std: as in `liresnet`.

    Raises:
      ValueError: "KEY=VALUE: must be …".
    """
    options = dict(locals())
    check_options(options)
    check(options, rank=or_none(integer(1, width)), ridge=number(1e-7, 1e-2))
    shared = {key: value for key, value in options.items() if key not in ("kernel_size", "rank", "ridge")}
    own = {"rank": rank, "ridge": ridge, "identity": True, "scale": depth**-0.5, "use_bias": False}
    conv = BlockReflectorConv(width, kernel_size, **own, parent=None)  # type: ignore[arg-type]
    return assembled(conv, **shared)
