"""The operations of a format in numpy: what `export.lowering` asks for is all that a format must say."""

import math

import numpy as np


class Numpy:
    maximum, minimum, abs, sqrt = np.maximum, np.minimum, np.abs, np.sqrt
    exp, expm1, tanh = np.exp, np.expm1, np.tanh
    matmul, where = np.matmul, staticmethod(np.where)
    at_least, more = np.greater_equal, np.greater
    both, either, negated = np.logical_and, np.logical_or, np.logical_not

    def constant(self, values):
        return np.asarray(values)

    def conv(self, x, kernel, bias, stride, padding, dilation=(1, 1), groups=1):
        x, taps = np.pad(x, [(0, 0), *padding, (0, 0)]), kernel.shape[:2]
        sizes = zip(x.shape[1:3], taps, stride, dilation, strict=True)
        counts = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in sizes]
        total = np.zeros((len(x), *counts, kernel.shape[3])) + bias
        for a, b in np.ndindex(*taps):
            part = np.split(self.pixels(x, (dilation[0] * a, dilation[1] * b), counts, stride), groups, -1)
            of_groups = zip(part, np.split(kernel[a, b], groups, -1), strict=True)
            total = total + np.concatenate([inputs @ matrix for inputs, matrix in of_groups], -1)
        return total

    def pixels(self, x, starts, counts, strides):
        rows, columns = (s + step * np.arange(n) for s, n, step in zip(starts, counts, strides, strict=True))
        return x[:, rows][:, :, columns]

    def channels(self, x, places):
        return x[..., np.array(places)]

    def erf(self, x):
        return np.vectorize(math.erf)(x)

    def softplus(self, x):
        return np.logaddexp(x, 0)

    def concatenate(self, parts, axis):
        return np.concatenate(parts, axis)

    def part(self, x, axis, start, stop):
        return x.take(range(start, stop), axis)

    def pad(self, x, around):
        return np.pad(x, [(0, 0), *around])

    def transpose(self, x, axes):
        return x.transpose(axes)

    def reshape(self, x, shape):
        return x.reshape(-1, *shape)

    def sum(self, x, axes):
        return x.sum(axes)

    def least(self, x):
        return x.min(-1)

    def largest(self, x):
        return x.argmax(-1)

    def rows(self, matrix, places):
        return matrix[places]
