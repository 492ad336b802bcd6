"""The operations of a format in numpy: what `export.lowering` asks for is all that a format must say."""

import numpy as np


class Numpy:
    maximum, minimum, abs, sqrt = np.maximum, np.minimum, np.abs, np.sqrt
    matmul, where = np.matmul, staticmethod(np.where)
    at_least, more = np.greater_equal, np.greater
    both, either, negated = np.logical_and, np.logical_or, np.logical_not

    def constant(self, values):
        return np.asarray(values)

    def conv(self, x, kernel, bias, stride, padding):
        x, (kh, kw) = np.pad(x, [(0, 0), *padding, (0, 0)]), kernel.shape[:2]
        h, w = ((n - k) // stride + 1 for n, k in zip(x.shape[1:3], (kh, kw), strict=True))
        total = np.zeros((len(x), h, w, kernel.shape[3])) + bias
        for a in range(kh):
            for b in range(kw):
                part = x[:, a : a + stride * (h - 1) + 1 : stride, b : b + stride * (w - 1) + 1 : stride]
                total = total + part @ kernel[a, b]
        return total

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
