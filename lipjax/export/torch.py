"""The network as a program of torch.export (.pt2), which torch alone loads and runs."""

import io
import json
from collections.abc import Callable

import numpy as np

from lipjax.export.deployed import Deployed, radius_of
from lipjax.export.lowering import lower

SUMS_IN_ANY_ORDER = True
PACKAGES = ("torch",)
METADATA = "lipjax.json"


def written(network: Deployed) -> bytes:
    """Images (N, H, W, C) → the outputs of `Deployed.outputs`, for any N; metadata among the extra files."""
    import torch

    module = _module(network).eval()
    images = torch.zeros((2, *network.proven.image_shape), dtype=getattr(torch, network.dtype))
    module(images)  # registers the constants
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        program = torch.export.export(module, (images,), dynamic_shapes={"images": {0: batch}})
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={METADATA: json.dumps(network.metadata())})
    return file.getvalue()


def _module(network: Deployed):
    import torch

    backbone, head = network.layers
    constants = network.radius_constants() if network.has_radius else None

    class Module(torch.nn.Module):
        def forward(self, images):
            o = _Torch(self, network.dtype)
            features = lower(backbone, images, o)
            logits = lower(head, features, o)
            return features, logits, *(() if constants is None else radius_of(images, logits, o, constants))

    return Module()


class _Torch:
    """`lowering.Operations` by torch; constants are buffers of a module, named by the order in which they are asked."""

    def __init__(self, module, dtype: str):
        import torch

        self.torch, self.module, self.dtype, self.count = torch, module, dtype, 0
        self.maximum, self.minimum, self.abs, self.sqrt = torch.maximum, torch.minimum, torch.abs, torch.sqrt
        self.softplus, self.matmul, self.where = self._softplus, torch.matmul, torch.where
        self.at_least, self.more = torch.ge, torch.gt
        self.exp, self.expm1, self.tanh, self.erf = torch.exp, torch.expm1, torch.tanh, torch.erf
        self.both, self.either, self.negated = torch.logical_and, torch.logical_or, torch.logical_not

    def constant(self, values):
        name = f"constant{self.count}"
        self.count += 1
        if not hasattr(self.module, name):
            values = np.asarray(values)
            values = values.astype(self.dtype) if values.dtype.kind == "f" else values
            self.module.register_buffer(name, self.torch.from_numpy(np.array(values)))
        return getattr(self.module, name)

    def conv(self, x, kernel, bias, stride, padding, dilation=(1, 1), groups=1):
        (top, bottom), (left, right) = padding
        x = x.permute(0, 3, 1, 2)
        around = (top, left) if (top, left) == (bottom, right) else (0, 0)
        if around != (top, left) or around != (bottom, right):
            x = self.torch.nn.functional.pad(x, (left, right, top, bottom))
        weight = self.constant(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
        y = self.torch.nn.functional.conv2d(x, weight, self.constant(bias), stride, around, dilation, groups)
        return y.permute(0, 2, 3, 1)

    def _softplus(self, x):  # that of torch is x itself beyond 20
        return self.torch.clamp(x, min=0) + self.torch.log1p(self.torch.exp(-self.torch.abs(x)))

    def concatenate(self, parts, axis):
        return self.torch.cat(list(parts), axis)

    def part(self, x, axis, start, stop):
        return x.narrow(axis, start, stop - start)

    def pixels(self, x, starts, counts, strides):
        for axis, (start, count, stride) in enumerate(zip(starts, counts, strides, strict=True), 1):
            x = x.narrow(axis, start, stride * (count - 1) + 1)
            x = x if stride == 1 else self.torch.ops.aten.slice(x, axis, 0, x.shape[axis], stride)
        return x

    def channels(self, x, places):
        return x.index_select(-1, self.constant(np.array(places, np.int64)))

    def pad(self, x, around):
        return self.torch.nn.functional.pad(x, [n for pair in reversed(around) for n in pair])

    def transpose(self, x, axes):
        return x.permute(axes)

    def reshape(self, x, shape):
        return x.reshape(x.shape[0], *shape)

    def sum(self, x, axes):
        return x.sum(axes)

    def least(self, x):
        return x.amin(-1)

    def largest(self, x):
        return x.argmax(-1)

    def rows(self, matrix, places):
        return matrix[places]


def loaded(content: bytes) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
    """images → the outputs of the program."""
    import torch

    module = torch.export.load(io.BytesIO(content)).module()

    def run(images):
        with torch.no_grad():
            return tuple(output.numpy() for output in module(torch.from_numpy(images)))

    return run
