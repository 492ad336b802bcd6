"""The network as ONNX, images NHWC; float64 convolutions, which onnxruntime has not, as slices and products."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from lipjax.export.deployed import Deployed, radius_of
from lipjax.export.lowering import lower

SUMS_IN_ANY_ORDER = True
PACKAGES = ("onnx", "onnxruntime")
OPSET, IR = 17, 8


class _Value:
    """A tensor of the graph by its name; `shape` has 1 in place of the batch."""

    def __init__(self, graph: "_Graph", name: str, shape: tuple[int, ...]):
        self.graph, self.name, self.shape = graph, name, shape

    def __add__(self, other):
        return self.graph.broadcast("Add", self, other)

    def __sub__(self, other):
        return self.graph.broadcast("Sub", self, other)

    def __mul__(self, other):
        return self.graph.broadcast("Mul", self, other)

    def __truediv__(self, other):
        return self.graph.broadcast("Div", self, other)


class _Graph:
    """`lowering.Operations` by nodes."""

    def __init__(self, dtype: str):
        from onnx import helper, numpy_helper

        self.helper, self.to_tensor = helper, numpy_helper.from_array
        self.dtype, self.count = dtype, 0
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def node(self, kind: str, inputs, shape, **attributes) -> _Value:
        self.count += 1
        name = f"v{self.count}"
        self.nodes.append(self.helper.make_node(kind, [value.name for value in inputs], [name], **attributes))
        return _Value(self, name, tuple(shape))

    def constant(self, values) -> _Value:
        values = np.asarray(values)
        values = np.ascontiguousarray(values.astype(self.dtype) if values.dtype.kind == "f" else values)
        name = f"c{len(self.tensors)}"
        self.tensors.append(self.to_tensor(values.reshape(np.shape(values)), name))
        return _Value(self, name, np.shape(values))

    def integers(self, *values: int) -> _Value:
        return self.constant(np.array(values, np.int64))

    def broadcast(self, kind: str, *inputs: _Value) -> _Value:
        return self.node(kind, inputs, np.broadcast_shapes(*(value.shape for value in inputs)))

    def same(self, kind: str, x: _Value) -> _Value:
        return self.node(kind, [x], x.shape)

    def conv(self, x, kernel, bias, stride, padding, dilation=(1, 1), groups=1):
        (top, bottom), (left, right) = padding
        kh, kw, _, c_out = kernel.shape
        sizes = zip(x.shape[1:3], padding, (kh, kw), stride, dilation, strict=True)
        h, w = ((n + a + b - d * (k - 1) - 1) // s + 1 for n, (a, b), k, s, d in sizes)
        if self.dtype == "float32":
            weight, bias = self.constant(kernel.transpose(3, 2, 0, 1)), self.constant(bias)
            own = {"pads": [top, left, bottom, right], "strides": list(stride), "kernel_shape": [kh, kw]}
            own |= {"dilations": list(dilation), "group": groups}
            y = self.node("Conv", [self.transpose(x, (0, 3, 1, 2)), weight, bias], (1, c_out, h, w), **own)
            return self.transpose(y, (0, 2, 3, 1))
        x = self.pad(x, [*padding, (0, 0)])
        places = [(dilation[0] * a, dilation[1] * b) for a in range(kh) for b in range(kw)]
        shifts = [self.pixels(x, place, (h, w), stride) for place in places]
        windows = shifts[0] if len(shifts) == 1 else self.concatenate(shifts, 3)
        if groups == 1:
            return self.matmul(windows, self.constant(kernel.reshape(-1, c_out))) + self.constant(bias)
        taps, count = kh * kw, kernel.shape[2]
        windows = self.transpose(self.reshape(windows, (h * w, taps, groups, count)), (0, 3, 1, 2, 4))
        matrices = kernel.reshape(taps * count, groups, -1).transpose(1, 0, 2)
        y = self.matmul(self.reshape(windows, (groups, h * w, taps * count)), self.constant(matrices))
        return self.reshape(self.transpose(y, (0, 2, 1, 3)), (h, w, c_out)) + self.constant(bias)

    def pixels(self, x, starts, counts, strides):
        ends = [start + (count - 1) * s + 1 for start, count, s in zip(starts, counts, strides, strict=True)]
        where = [self.integers(*starts), self.integers(*ends), self.integers(1, 2), self.integers(*strides)]
        return self.node("Slice", [x, *where], (1, *counts, x.shape[3]))

    def channels(self, x, places):
        return self.node("Gather", [x, self.integers(*places)], (*x.shape[:-1], len(places)), axis=len(x.shape) - 1)

    def matmul(self, x, y):
        if len(y.shape) == 2:
            return self.node("MatMul", [x, y], (*x.shape[:-1], y.shape[1]))
        shape = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        return self.node("MatMul", [x, y], (*shape, x.shape[-2], y.shape[-1]))

    def maximum(self, x, y):
        return self.broadcast("Max", x, y)

    def minimum(self, x, y):
        return self.broadcast("Min", x, y)

    def abs(self, x):
        return self.same("Abs", x)

    def sqrt(self, x):
        return self.same("Sqrt", x)

    def softplus(self, x):
        """max(x, 0) + log(1 + e^−|x|)."""
        zero, one = self.constant(0.0), self.constant(1.0)
        return self.maximum(x, zero) + self.same("Log", self.same("Exp", zero - self.abs(x)) + one)

    def exp(self, x):
        return self.same("Exp", x)

    def tanh(self, x):
        return self.same("Tanh", x)

    def expm1(self, x):
        """2 t / (1 − t) with t = tanh(x/2), which loses no digits near 0."""
        t = self.tanh(x * self.constant(0.5))
        return (t + t) / (self.constant(1.0) - t)

    def erf(self, x):
        if self.dtype != "float32":
            raise ValueError("onnx: onnxruntime has no erf in float64, of which activation 'gelu' is made: use float32")
        return self.same("Erf", x)

    def at_least(self, x, y):
        return self.broadcast("GreaterOrEqual", x, y)

    def more(self, x, y):
        return self.broadcast("Greater", x, y)

    def both(self, x, y):
        return self.broadcast("And", x, y)

    def either(self, x, y):
        return self.broadcast("Or", x, y)

    def negated(self, x):
        return self.same("Not", x)

    def where(self, condition, x, y):
        return self.broadcast("Where", condition, x, y)

    def concatenate(self, parts, axis):
        shape = list(parts[0].shape)
        shape[axis] = sum(value.shape[axis] for value in parts)
        return self.node("Concat", parts, shape, axis=axis)

    def part(self, x, axis, start, stop):
        shape = (*x.shape[:axis], stop - start, *x.shape[axis + 1 :])
        return self.node("Slice", [x, self.integers(start), self.integers(stop), self.integers(axis)], shape)

    def pad(self, x, around):
        if not any(map(any, around)):
            return x
        before, after = zip((0, 0), *around, strict=True)
        shape = [n + a + b for n, a, b in zip(x.shape, before, after, strict=True)]
        return self.node("Pad", [x, self.integers(*before, *after), self.constant(0.0)], shape)

    def transpose(self, x, axes):
        return self.node("Transpose", [x], [x.shape[axis] for axis in axes], perm=list(axes))

    def reshape(self, x, shape):
        return self.node("Reshape", [x, self.integers(-1, *shape)], (1, *shape))

    def sum(self, x, axes):
        shape = [n for axis, n in enumerate(x.shape) if axis not in axes]
        return self.node("ReduceSum", [x, self.integers(*axes)], shape, keepdims=0)

    def least(self, x):
        return self.node("ReduceMin", [x], x.shape[:-1], axes=[-1], keepdims=0)

    def largest(self, x):
        return self.node("ArgMax", [x], x.shape[:-1], axis=-1, keepdims=0)

    def rows(self, matrix, places):
        return self.node("Gather", [matrix, places], (*places.shape, matrix.shape[1]))


def written(network: Deployed) -> bytes:
    """Input 'images' (batch, H, W, C), outputs by the names of `Deployed.outputs`; metadata under 'lipjax'."""
    from onnx import TensorProto, checker

    graph, (backbone, head), shape = _Graph(network.dtype), network.layers, network.proven.image_shape
    helper, kind = graph.helper, getattr(TensorProto, "FLOAT" if network.dtype == "float32" else "DOUBLE")
    images = _Value(graph, "images", (1, *shape))
    features = lower(backbone, images, graph)
    found = [features, lower(head, features, graph)]
    if network.has_radius:
        found += radius_of(images, found[1], graph, network.radius_constants())
    outputs: list[Any] = []
    for name, value in zip(network.outputs, found, strict=True):
        graph.nodes.append(helper.make_node("Identity", [value.name], [name]))
        of_output = TensorProto.INT64 if name == "class" else kind
        outputs.append(helper.make_tensor_value_info(name, of_output, ["batch", *value.shape[1:]]))
    given = helper.make_tensor_value_info("images", kind, ["batch", *shape])
    whole = helper.make_graph(graph.nodes, "network", [given], outputs, graph.tensors)
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    model.producer_name = "lipjax"
    helper.set_model_props(model, {"lipjax": json.dumps(network.metadata())})
    checker.check_model(model)
    return model.SerializeToString()


def loaded(content: bytes) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
    """images → the outputs of the network, by onnxruntime on the CPU with its optimiser off."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: tuple(session.run(None, {"images": images}))
