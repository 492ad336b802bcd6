"""Faults of the programs of this field: what they would certify, shown to be wrong, beside what lipjax does.

Tested elsewhere: half of the frequencies (test_bounds, all_frequencies_count), unequal std and cold power vectors
(test_models), ties, duplicated and nearly equal rows, rivals left out, wrong predictions (test_certificates, test_crc,
test_paper_protocol), changed bytes of a checkpoint (test_checkpoint), radii that are too large (test_pgd).
"""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

import lipjax
from lipjax.evaluation.split import certify_run
from lipjax.layers.skew_orthogonal_conv import DEFAULT_POLYNOMIAL
from lipjax.models import program
from lipjax.ops import conv_norm_bound, curvature_bound, skew_kernel, taylor


def dense(kernel, size):
    """The matrix of the zero-padded convolution, entry by entry."""
    k, _, c_in, c_out = kernel.shape
    matrix = np.zeros((size, size, c_out, size, size, c_in))
    for row in range(size):
        for column in range(size):
            for i in range(k):
                for j in range(k):
                    r, c = row + i - k // 2, column + j - k // 2
                    if 0 <= r < size and 0 <= c < size:
                        matrix[row, column, :, r, c, :] = kernel[i, j].T
    return matrix.reshape(size * size * c_out, -1)


def test_power_iteration_is_no_bound(rng, float64):
    """Ten power iterations approach the norm from below."""
    kernel = np.asarray(skew_kernel(rng.normal(size=(3, 3, 4, 4))))
    matrix = dense(kernel, 6)
    v = rng.normal(size=len(matrix))
    for _ in range(10):
        v = matrix.T @ (matrix @ v)
        v /= np.linalg.norm(v)
    norm = np.linalg.norm(matrix, 2)
    assert np.linalg.norm(matrix @ v) < 0.9999 * norm
    assert norm <= conv_norm_bound(kernel, 6) <= 1.01 * norm


def test_the_fourier_transform_on_the_grid_of_the_image_is_no_bound():
    """A zero-padded convolution is no circulant of n points: its largest symbol may lie between their frequencies."""
    turn = np.array([[1, -1], [1, 1]]) / np.sqrt(2)  # e^{iπ/4}: the symbol is 2 cos(ω + π/4), 1.41 at ω = 0, π/2, …
    kernel = np.zeros((3, 3, 2, 2))
    kernel[1, 0], kernel[1, 2] = turn, turn.T
    grid = np.zeros((4, 4, 2, 2))
    for i in range(3):
        for j in range(3):
            grid[i - 1, j - 1] = kernel[i, j]
    circulant = np.linalg.norm(np.fft.fft2(grid, axes=(0, 1)), 2, axis=(2, 3)).max()
    norm = np.linalg.norm(dense(kernel, 4), 2)
    assert circulant < 0.9 * norm
    assert norm <= conv_norm_bound(kernel, 4)


def random_head(rng, classes=3, hidden=12, width=4):
    w1, w2 = rng.normal(size=(hidden, width)), rng.normal(size=(classes, hidden))
    return {"w1": w1, "b1": rng.normal(size=hidden), "w2": w2, "b2": rng.normal(size=classes)}


def logits(head, y):
    return np.logaddexp(0, y @ head["w1"].T + head["b1"]) @ head["w2"].T + head["b2"]


def test_curvature_by_power_iteration_is_no_bound(rng):
    """Two eigenvalues close together: twenty power iterations stop below the larger one."""
    w1 = np.diag([1.0, 0.99, 0.98, 0.97])
    w2 = np.array([np.zeros(4), np.full(4, 4.0)])  # the Hessian's bound is W1ᵀ W1
    v = np.array([0.1, 1.0, 1.0, 1.0])
    for _ in range(20):
        v = w1.T @ (w1 @ v)
        v /= np.linalg.norm(v)
    assert v @ (w1.T @ (w1 @ v)) < 0.99
    assert 1.0 <= curvature_bound(w1, w2)[0, 1] <= 1.001


def test_a_dual_value_counts_only_less_its_residual(rng):
    """2 η f + ‖δ‖² at a δ that does not minimise the Lagrangian is no bound: at δ = 0 it lies beyond the boundary."""
    beyond = 0
    for _ in range(20):
        head, y = random_head(rng), rng.normal(size=4)
        f = logits(head, y)
        label = int(np.argmax(f))
        certificate = lipjax.certificates.certify_crc(y[None], head, np.array([label]))
        m = curvature_bound(head["w1"], head["w2"])
        slope = 1 / (1 + np.exp(-(head["w1"] @ y + head["b1"])))
        unproven, reached = np.inf, np.inf
        for rival in set(range(3)) - {label}:
            unproven = min(unproven, np.sqrt(2 * 0.999 / m[label, rival] * (f[label] - f[rival])))
            gradient = ((head["w2"][label] - head["w2"][rival]) * slope) @ head["w1"]
            steps = np.linspace(0, 10, 10001)[:, None]
            line = logits(head, y - steps * gradient / np.linalg.norm(gradient))
            crossed = steps[line[:, label] <= line[:, rival], 0]
            reached = min(reached, crossed[0] if len(crossed) else np.inf)
        assert certificate.radius[0] <= reached
        beyond += unproven > reached
    assert beyond > 10


@pytest.fixture(scope="module", params=["lln", "crc", "folded", "taylor"])
def network(request):
    polynomials = {"polynomial": taylor(6), "eval_polynomial": taylor(15)} if request.param == "taylor" else {}
    head = "crc" if request.param == "crc" else "lln"
    model = lipjax.LipConvnet(5, 2, 8, 1, 4, head, 16, **({"polynomial": DEFAULT_POLYNOMIAL} | polynomials))
    images = np.random.default_rng(0).uniform(size=(7, 8, 8, 1)).astype(np.float32)
    variables = model.init(jax.random.key(0), images)
    if request.param == "folded":
        model, variables = lipjax.fold(model, variables)
    return model, variables, images


def test_every_product_is_at_full_precision(network, monkeypatch):
    """TF32 or bf16 products in evaluation: every one of the certification's own call must ask for the highest."""
    model, variables, images = network
    jaxprs = []

    def recorded(*arguments):
        jaxprs.append(jax.make_jaxpr(features, static_argnums=0)(*arguments))
        return features(*arguments)

    features = program._features_of
    monkeypatch.setattr(program, "_features_of", recorded)
    program.penultimate_features(model, variables, images)
    certified = lipjax.prove(model, variables)
    run = certified._program._run
    certified._program._run = lambda *given: (jaxprs.append(jax.make_jaxpr(run)(*given)), run(*given))[1]
    certified.certify(images, np.zeros(len(images), int))
    assert len(jaxprs) == 2
    products = [part for jaxpr in jaxprs for part in _products(jaxpr.jaxpr)]
    assert {name for name, _ in products} >= {"conv_general_dilated"}
    highest = jax.lax.Precision.HIGHEST
    assert all(precision == (highest, highest) for _, precision in products)


@pytest.mark.parametrize("setting", ["F32_F32_F32", "bfloat16"])
def test_no_setting_of_jax_makes_products_coarser(network, setting):
    """JAX_DEFAULT_MATMUL_PRECISION=F32_F32_F32 has products of float64 in float32: head and proofs must not know it."""
    model, variables, images = network

    def found():
        proven = lipjax.prove(model, model.tightened(variables))
        certificate = proven.certify(images)
        return [proven.lipschitz_bound, proven.rounding, proven.program_sha256, *dataclasses.astuple(certificate)]

    usual = found()
    with jax.default_matmul_precision(setting):
        for one, other in zip(usual, found(), strict=True):
            np.testing.assert_array_equal(one, other)


def _products(jaxpr):
    for equation in jaxpr.eqns:
        if "precision" in equation.params:
            yield equation.primitive.name, equation.params["precision"]
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from _products(inner)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_images_are_refused(network, dtype):
    model, variables, images = network
    with pytest.raises(ValueError, match=rf"images: dtype must be float32 or float64 in \[0, 1\], got {dtype}"):
        lipjax.certify(model, variables, jax.numpy.asarray(images, dtype), np.zeros(7, int))


def test_labels_do_not_leak_into_predictions(network):
    """The prediction is that of the logits, whichever label is given; only it has a positive radius."""
    model, variables, images = network
    predicted = np.argmax(model.apply(variables, images), axis=1)
    for label in range(4):
        certificate = lipjax.certify(model, variables, images, np.full(7, label))
        np.testing.assert_array_equal(certificate.prediction, predicted)
        np.testing.assert_array_equal(certificate.radius > 0, predicted == label)


def test_padding_is_not_counted(network):
    """Batches are padded to one size: the rows of padding must not be there, nor change the others."""
    model, variables, images = network
    labels = np.argmax(model.apply(variables, images), axis=1)
    together = lipjax.certify(model, variables, images, labels)
    assert together.radius.shape == (7,)
    apart = [lipjax.certify(model, variables, images[i : i + 1], labels[i : i + 1]).radius[0] for i in range(7)]
    # float32 features; sums of other batch sizes differ in their last bits.
    np.testing.assert_allclose(together.radius, apart, rtol=0, atol=1e-6)


def test_an_incomplete_last_batch_is_counted_once(trained, tmp_path):
    """The last of 17 images makes a batch of its own: accuracy is a mean over 17, not over whole batches."""
    shutil.copytree(trained[0], tmp_path / "run")
    summary = certify_run(tmp_path / "run", num_examples=17, batch_size=8, say=lambda line: None)
    rows = (tmp_path / "run" / "certificates" / "per_image.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == list(range(17))
    right = sum(row.split(",")[1] == row.split(",")[2] for row in rows)
    assert 0 < right < 17
    assert summary["standard_accuracy"] == right / 17
