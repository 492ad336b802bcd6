"""The zero-padded stride-1 convolution A x and its kernel gradient, each in the form that is fast for its shape.

Rule for A x, from shapes alone (`chosen_operator`):
  k = 1                    'matmul': a matrix product over channels;
  H, W <= ⌊k/2⌋ + 1        'dense': the (H·W·C)² operator: every pixel sees every other, so it has no zero block, costs
                           at most as many multiplications as the convolution (H²W²C² against H·W·k²·C²), and
                           backends run it at matrix-product rate where their convolutions of tiny images do not;
  otherwise                'convolution': the backend's own.
'blocked' is what proofs are about: each of these forms, with its sums divided into blocks (`blocked`).

Rule for the kernel gradient, on a CPU: sums of matrix products over images and pixels,
  `gradient_by_taps`       where A x is not a convolution;
  `gradient_by_blocks`     where there are more than BLOCK_PIXELS pixels in the batch: there the backend's own is slow;
  otherwise, and on other platforms, the backend's own.
`benchmarks/ops.py` measures both rules on every layer shape of LipConvnet-n.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lipjax.ops import blocked

OPERATORS = ("convolution", "dense", "matmul", "blocked")
BLOCK_PIXELS = 4096  # of a batch or block: its shifted copies stay in cache; 2048 is within noise of it


def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x (N, H, W, C_in), kernel (k, k, C_in, C_out) HWIO → (N, H, W, C_out), zero padding, stride 1."""
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def chosen_operator(kernel_size: int, height: int, width: int) -> str:
    """The one of OPERATORS that `linear_operator` takes by itself (see the rule above)."""
    if kernel_size == 1:
        return "matmul"
    return "dense" if max(height, width) <= kernel_size // 2 + 1 else "convolution"


def linear_operator(
    kernel: jax.Array, height: int, width: int, operator: str | None = None
) -> Callable[[jax.Array], jax.Array]:
    """The map x → A x of `convolution` for (N, height, width, C_in) inputs, prepared once for repeated use.

    Every operator gives the same map up to rounding, differentiable in x and kernel.

    Args:
      kernel: (k, k, C_in, C_out) HWIO, k odd.
      height, width: of the images, in pixels.
      operator: one of OPERATORS, 'matmul' only for k = 1; None takes `chosen_operator`.

    Raises:
      ValueError: another operator, or 'matmul' for k > 1.
    """
    k = kernel.shape[0]
    allowed = [name for name in OPERATORS if k == 1 or name != "matmul"]
    operator = chosen_operator(k, height, width) if operator is None else operator
    if operator not in allowed:
        raise ValueError(f"linear_operator: operator must be one of {allowed} for a {k}×{k} kernel, got {operator!r}")
    if operator == "matmul":
        return lambda x: jnp.matmul(x, kernel[0, 0])
    if operator == "blocked":
        return lambda x: _in_blocks(x, kernel)
    if operator == "dense":
        dense = dense_operator(kernel, height, width)
        return lambda x: jnp.matmul(x.reshape(x.shape[0], -1), dense).reshape(*x.shape[:3], -1)
    return lambda x: convolution(x, kernel)


# Of the operator 'blocked', where it is neither a product over channels nor dense.  From so many channels on it is made
# of matrix products, one a row of taps; below, of convolutions of as few channels as cost little time.
_ROWS_FROM = 256
_CHANNELS, _MOST_CHANNELS = 1024, 16


def _chunk(channels: int) -> int:
    """Input channels of each of the convolutions of the operator 'blocked'."""
    return min(_CHANNELS // channels, _MOST_CHANNELS)


def _in_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """`convolution` summed in blocks (`blocked`)."""
    count, height, width, channels = x.shape
    k, _, _, c_out = kernel.shape
    operator = chosen_operator(k, height, width)
    if operator == "matmul":
        return blocked.product(x, kernel[0, 0])
    if operator == "dense":
        dense = dense_operator(kernel, height, width)
        return blocked.product(x.reshape(count, -1), dense).reshape(count, height, width, c_out)
    if channels >= _ROWS_FROM:
        padded = jnp.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
        shifts = jnp.concatenate([padded[:, :, b : b + width] for b in range(k)], axis=-1)
        parts = (blocked.product(shifts[:, a : a + height], kernel[a].reshape(k * channels, c_out)) for a in range(k))
    else:
        chunk = _chunk(channels)
        starts = range(0, channels, chunk)
        parts = (convolution(x[..., s : s + chunk], kernel[:, :, s : s + chunk]) for s in starts)
    return functools.reduce(jnp.add, parts)


def blocked_sums(kernel_size: int, height: int, width: int, channels: int) -> tuple[int, int]:
    """(products a block, blocks) of the operator 'blocked': what the rounding of its sums depends on."""
    if blocked.is_any_order():
        return blocked.products(kernel_size**2 * channels), 1
    operator = chosen_operator(kernel_size, height, width)
    if operator == "convolution" and channels < _ROWS_FROM:
        chunk = min(_chunk(channels), channels)
        return kernel_size**2 * chunk, -(-channels // chunk)
    count, times = kernel_size * channels, kernel_size
    if operator != "convolution":
        count, times = (channels if operator == "matmul" else height * width * channels), 1
    return blocked.products(count), times * blocked.blocks(count)


def weight_gradient(x: jax.Array, g: jax.Array, kernel_size: int) -> jax.Array:
    """g ⊗ x: the gradient of ⟨g, convolution(x, kernel)⟩ in the kernel, for any kernel.

    x (N, H, W, C_in), g (N, H, W, C_out) → (k, k, C_in, C_out): tap (a, b) is the sum over images and pixels of
    x[n, h + a − ⌊k/2⌋, w + b − ⌊k/2⌋, ·] g[n, h, w, ·]ᵀ, x zero outside.
    """
    batch, height, width, _ = x.shape
    if chosen_operator(kernel_size, height, width) != "convolution":
        on_cpu = gradient_by_taps
    elif batch * height * width > BLOCK_PIXELS:
        on_cpu = gradient_by_blocks
    else:
        on_cpu = gradient_by_convolution
    # CPUs add up in the dtype of the products, which bfloat16 sums over a batch do not survive.
    summed = jnp.promote_types(x.dtype, jnp.float32)
    return lax.platform_dependent(
        x,
        g,
        cpu=lambda x, g: on_cpu(x.astype(summed), g.astype(summed), kernel_size).astype(x.dtype),
        default=lambda x, g: gradient_by_convolution(x, g, kernel_size),
    )


def gradient_by_convolution(x: jax.Array, g: jax.Array, kernel_size: int) -> jax.Array:
    """`weight_gradient` as the backend's transpose of the convolution."""
    kernel = jax.ShapeDtypeStruct((kernel_size, kernel_size, x.shape[-1], g.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda kernel: convolution(x, kernel), kernel)(g)[0]


def gradient_by_taps(x: jax.Array, g: jax.Array, kernel_size: int) -> jax.Array:
    """`weight_gradient` as one product a tap over the pixels where it reads inside the image, so without padding."""
    height, width = x.shape[1:3]

    def overlap(shift, size):  # the pixels read and the pixels written by a tap at this offset; none if it is too long
        length = max(size - abs(shift), 0)
        return (slice(start := min(max(s, 0), size), start + length) for s in (shift, -shift))

    def tap(a, b):
        (h_in, h_out), (w_in, w_out) = overlap(a, height), overlap(b, width)
        return _product(x[:, h_in, w_in], g[:, h_out, w_out])

    offsets = range(-(kernel_size // 2), kernel_size // 2 + 1)
    return jnp.stack([jnp.stack([tap(a, b) for b in offsets]) for a in offsets])


def gradient_by_blocks(x: jax.Array, g: jax.Array, kernel_size: int) -> jax.Array:
    """`weight_gradient` as one (k·C_in, k·C_out) product a block of images, whose entries are just the k² taps.

    The k horizontal shifts of x stand side by side as channels, against the k vertical shifts of g; so each is copied
    k times, not k² as for a product of whole patches, and the product is square.  Blocks keep the copies in cache.
    """
    batch, height, width, c_in = x.shape
    k, radius, c_out = kernel_size, kernel_size // 2, g.shape[-1]

    def block_product(x, g):
        x = jnp.pad(x, ((0, 0), (0, 0), (radius, radius), (0, 0)))
        x = jnp.concatenate([x[:, :, b : b + width] for b in range(k)], axis=-1)
        g = jnp.pad(g, ((0, 0), (radius, radius), (0, 0), (0, 0)))
        g = jnp.concatenate([g[:, a : a + height] for a in reversed(range(k))], axis=-1)
        return _product(x, g)

    images = max(1, BLOCK_PIXELS // (height * width))
    rest = batch % images
    blocks = [z[rest:].reshape(-1, images, *z.shape[1:]) for z in (x, g)]
    total, _ = lax.scan(lambda total, z: (total + block_product(*z), None), block_product(x[:rest], g[:rest]), blocks)
    return total.reshape(k, c_in, k, c_out).transpose(2, 0, 1, 3)  # (b, C_in, a, C_out) → (a, b, C_in, C_out)


def _product(x, g):
    """Σ x gᵀ over all but the last axes: (…, C_in), (…, C_out) → (C_in, C_out)."""
    return jnp.matmul(x.reshape(-1, x.shape[-1]).T, g.reshape(-1, g.shape[-1]))


def dense_operator(kernel, height: int, width: int):
    """The matrix D (H·W·C_in, H·W·C_out) with vec(A x) = vec(x) D; numpy in, numpy out, else jax, differentiable."""
    numpy = np if isinstance(kernel, np.ndarray) else jnp
    k, _, c_in, c_out = kernel.shape

    def tap(size):  # index of the tap that carries input pixel i to output pixel j, and whether there is one
        offset = np.arange(size)[:, None] - np.arange(size)[None, :] + k // 2
        return np.clip(offset, 0, k - 1), (offset >= 0) & (offset < k)

    (row, row_exists), (column, column_exists) = tap(height), tap(width)
    blocks = kernel[row[:, :, None, None], column[None, None, :, :]]  # (h in, h out, w in, w out, C_in, C_out)
    exists = row_exists[:, :, None, None, None, None] & column_exists[None, None, :, :, None, None]
    blocks = numpy.where(exists, blocks, numpy.zeros((), blocks.dtype))
    return blocks.transpose(0, 2, 4, 1, 3, 5).reshape(height * width * c_in, height * width * c_out)
