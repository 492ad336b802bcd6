import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from lipjax.certificates import crc
from lipjax.certificates.crc import certify_crc, pair_bounds
from lipjax.ops import crc as ops
from lipjax.ops.curvature import curvature_bound


def softplus(z):
    return np.logaddexp(0, z)


def logits(head, y):
    return softplus(y @ head["w1"].T + head["b1"]) @ head["w2"].T + head["b2"]


def random_head(rng, hidden, width, classes, scale=1.0):
    return {
        "w1": scale * rng.normal(size=(hidden, width)) / np.sqrt(width),
        "b1": rng.normal(size=hidden),
        "w2": 2 * rng.normal(size=(classes, hidden)) / np.sqrt(hidden),
        "b2": 0.1 * rng.normal(size=classes),
    }


def golden_head(data):
    return {name: data[name] for name in ("w1", "b1", "w2", "b2")}


def found_distance(head, y, label, rival, rng, starts=6):
    """The shortest ‖δ‖ with f_l(y + δ) <= f_i(y + δ) that an independent search (SLSQP, many starts) finds."""
    w, b = head["w2"][label] - head["w2"][rival], head["b2"][label] - head["b2"][rival]

    def margin(delta):
        return softplus(head["w1"] @ (y + delta) + head["b1"]) @ w + b

    def gradient(delta):
        return head["w1"].T @ (w * scipy.special.expit(head["w1"] @ (y + delta) + head["b1"]))

    constraint = {"type": "ineq", "fun": lambda d: -margin(d), "jac": lambda d: -gradient(d)}
    nearest = np.inf
    for start in range(starts):
        guess = rng.normal(size=y.size) if start else -gradient(0 * y) * margin(0 * y) / (gradient(0 * y) ** 2).sum()
        result = scipy.optimize.minimize(
            lambda d: d @ d, guess, jac=lambda d: 2 * d, constraints=[constraint], method="SLSQP"
        )
        length = np.linalg.norm(result.x)
        if margin(result.x * (1 + 1e-7)) <= 0:  # only points that lie beyond the boundary count
            nearest = min(nearest, length * (1 + 1e-7))
    return nearest


def as_pairs(head, y, labels, rivals, bounds):
    """The `ops.crc.Pairs` of images y (P, D) and class pairs."""
    return ops.Pairs(
        jnp.asarray(y @ head["w1"].T + head["b1"]),
        jnp.asarray(head["w2"][labels] - head["w2"][rivals]),
        jnp.asarray(head["b2"][labels] - head["b2"][rivals]),
        jnp.asarray(bounds[labels, rivals]),
        jnp.linalg.norm(y, axis=1),
    )


def test_golden_radii_are_at_least_the_authors_and_at_most_the_truth(golden):
    data = golden("crc")
    head, labels = golden_head(data), data["labels"]
    margins, lower, upper = pair_bounds(data["features"], head, labels)
    rows = np.arange(len(labels))[:, None]
    radius, right = lower[rows, data["other"]], margins[rows, data["other"]] > 0
    assert (radius >= data["certs_tight"] - 1e-9).all()
    assert (radius <= data["truth_abs_dist"] + 1e-9).all()
    assert (radius[right] > 0).all()
    assert (radius[~right] == 0).all()
    assert (upper[rows, data["other"]] >= radius).all()

    certificate = certify_crc(data["features"], head, labels)
    correct = data["logits"].argmax(axis=1) == labels
    np.testing.assert_array_equal(certificate.radius, np.where(correct, radius.min(axis=1), 0))
    np.testing.assert_array_equal(certificate.rival[correct], data["other"][correct, radius[correct].argmin(axis=1)])
    np.testing.assert_array_equal(certificate.rival[~correct], data["logits"].argmax(axis=1)[~correct])
    np.testing.assert_array_equal(certificate.prediction, data["logits"].argmax(axis=1))
    assert certificate.exact.all()


@pytest.mark.parametrize(("hidden", "width", "classes"), [(3, 2, 2), (16, 5, 4), (8, 12, 4)])
def test_radius_is_at_most_the_distance_an_independent_search_finds(rng, hidden, width, classes):
    gaps = []
    for scale in (0.3, 1.0, 3.0, 10.0):
        head = random_head(rng, hidden, width, classes, scale)
        y = rng.normal(size=(4, width))
        labels = logits(head, y).argmax(axis=1)
        certificate = certify_crc(y, head, labels)
        _, lower, upper = pair_bounds(y, head, labels)
        assert (certificate.radius <= certificate.upper).all()
        for n, label in enumerate(labels):
            for rival in set(range(classes)) - {label}:
                distance = found_distance(head, y[n], label, rival, rng)
                assert lower[n, rival] <= distance * (1 + 1e-9)
                assert certificate.radius[n] <= distance * (1 + 1e-9)
                if lower[n, rival] >= (1 - 1e-6) * upper[n, rival] and np.isfinite([distance, upper[n, rival]]).all():
                    gaps.append(distance / upper[n, rival])
    # Exact ones are the distance itself: the search finds nothing nearer, and nearly always the same point.
    assert min(gaps) > 1 - 2e-6
    assert np.median(gaps) < 1 + 1e-5


def test_the_upper_bound_is_the_length_of_a_point_that_is_classified_otherwise(golden):
    data = golden("crc")
    head = golden_head(data)
    labels = data["labels"]
    with jax.enable_x64(True):
        y, others = np.repeat(data["features"], 4, axis=0), data["other"].ravel()
        pairs = as_pairs(head, y, np.repeat(labels, 4), others, curvature_bound(head["w1"], head["w2"]))
        w1, b1 = jnp.asarray(head["w1"]), jnp.asarray(head["b1"])
        delta = np.asarray(ops.fixed_point(w1, w1 @ w1.T, pairs, 10))
        for halvings in (0, 60):
            upper = np.asarray(ops.boundary_distance(w1, b1, pairs, jnp.asarray(delta), delta @ w1.T, halvings))
            found = np.isfinite(upper) & (np.linalg.norm(delta, axis=1) > 0)
            assert found.sum() > 200
            scaled = delta[found] * (upper[found] / np.linalg.norm(delta[found], axis=1))[:, None]
            values = logits(head, y[found] + scaled)
            rows = np.arange(found.sum())
            assert (values[rows, np.repeat(labels, 4)[found]] <= values[rows, others[found]] + 1e-12).all()


def nearly_quadratic_head():
    """f = 1e-4 − (softplus(z) + softplus(−z) − 2 log 2) ≈ 1e-4 − z²/4, z the first of two features.

    Up to the boundary at z ≈ 0.02 its curvature is within 1e-4 of m = 1/2: a bound of m that is too small shows.
    """
    head = {"w1": np.array([[1.0, 0], [-1.0, 0]]), "b1": np.zeros(2), "w2": np.array([[-1.0, -1.0], [0, 0]])}
    return head | {"b2": np.array([1e-4 + 2 * np.log(2), 0.0])}


def test_a_curvature_bound_one_percent_too_small_is_caught():
    head, y = nearly_quadratic_head(), np.array([[1e-3, 0.5]])
    true = scipy.optimize.brentq(lambda z: 1e-4 + 2 * np.log(2) - softplus(z) - softplus(-z), 0, 1, xtol=1e-15) - 1e-3
    bounds = curvature_bound(head["w1"], head["w2"])
    assert 0.99 * true < certify_crc(y, head, [0], curvature=bounds).radius[0] <= true
    assert certify_crc(y, head, [0]).radius[0] <= true
    exact_curvature = np.array([[0, 0.5], [0, 0]])
    too_small = pair_bounds(y, head, np.array([0]), 0.99 * exact_curvature)[1][0, 1]
    screened = certify_crc(y, head, [0], curvature=0.99 * exact_curvature).radius[0]
    assert min(too_small, screened) > true * (1 + 1e-3)


def test_the_closed_form_is_the_contract_formula_at_its_best_eta(golden, rng):
    data = golden("crc")
    head = golden_head(data)
    bounds = curvature_bound(head["w1"], head["w2"])
    with jax.enable_x64(True):
        y, labels, rivals = data["features"], data["labels"], data["other"][:, 0]
        pairs = as_pairs(head, y, labels, rivals, bounds)
        w1, b1 = jnp.asarray(head["w1"]), jnp.asarray(head["b1"])
        delta = 0.5 * np.asarray(ops.fixed_point(w1, None, pairs, 2)) + 0.05 * rng.normal(size=y.shape)
        got = np.asarray(ops.lower_bound(w1, b1, pairs, jnp.asarray(delta)))
        value, slope = ops.softplus_and_slope(pairs.z + delta @ w1.T)
        f, g = np.asarray((pairs.w * value).sum(axis=1) + pairs.b), np.asarray((pairs.w * slope) @ w1)
    m, eta = bounds[labels, rivals][:, None], np.linspace(0, 0.9999, 1001) / bounds[labels, rivals][:, None]
    residual = ((delta[:, None] + eta[:, :, None] * g[:, None]) ** 2).sum(axis=2)
    unpenalised = (delta**2).sum(axis=1)[:, None] + 2 * eta * f[:, None]
    squared = (unpenalised - residual / (1 - eta * m)).max(axis=1)
    positive = got > 0
    assert positive.sum() > 50
    assert (got[positive] ** 2 >= squared[positive] * (1 - 1e-9)).all()
    np.testing.assert_allclose(got[positive] ** 2, squared[positive], rtol=1e-3)
    assert (squared[~positive] <= 1e-9).all()
    # Without the penalty of its residual, the formula exceeds the true distance; with it, it never does.
    truth = data["truth_abs_dist"][:, 0]
    assert (np.sqrt(unpenalised.max(axis=1)) > 1.01 * truth)[positive].any()
    assert (got <= truth + 1e-9).all()


def test_every_proposal_gives_a_true_bound(golden, rng):
    data = golden("crc")
    head, count = golden_head(data), len(data["labels"])
    with jax.enable_x64(True):
        bounds = curvature_bound(head["w1"], head["w2"])
        pairs = as_pairs(head, data["features"], data["labels"], data["other"][:, 0], bounds)
        for size in (1e-3, 0.1, 1.0, 10.0):
            delta = jnp.asarray(size * rng.normal(size=(count, 16)))
            bound = np.asarray(ops.lower_bound(jnp.asarray(head["w1"]), jnp.asarray(head["b1"]), pairs, delta))
            assert (bound <= data["truth_abs_dist"][:, 0] + 1e-9).all()
        nowhere = jnp.full((count, 16), jnp.nan)
        assert (ops.lower_bound(jnp.asarray(head["w1"]), jnp.asarray(head["b1"]), pairs, nowhere) == 0).all()


def test_rounding_terms_cover_the_errors_of_float64(rng):
    z = np.concatenate([np.linspace(-700, 700, 40001), rng.normal(size=10000), 1e-8 * rng.normal(size=100)])
    wide = z.astype(np.longdouble)
    e = np.exp(-np.abs(wide))
    with jax.enable_x64(True):
        value, slope = (np.asarray(part) for part in ops.softplus_and_slope(jnp.asarray(z)))
    unit = np.finfo(float).eps / 2
    assert np.max(np.abs(value / (np.maximum(wide, 0) + np.log1p(e)) - 1)) < 8 * unit
    assert np.max(np.abs(slope / (np.where(wide >= 0, 1, e) / (1 + e)) - 1)) < 8 * unit

    head, y = random_head(rng, 64, 32, 2, 5.0), 20 * rng.normal(size=(50, 32))
    label, rival = np.zeros(50, int), np.ones(50, int)
    with jax.enable_x64(True):
        pairs = as_pairs(head, y, label, rival, np.zeros((2, 2)))
        f = np.asarray((pairs.w * ops.softplus_and_slope(pairs.z)[0]).sum(axis=1) + pairs.b)
        allowed = np.asarray(ops.rounding(jnp.asarray(head["w1"]), jnp.asarray(head["b1"]), pairs, 0.0)[0])
    exact = {name: value.astype(np.longdouble) for name, value in head.items()}
    hidden = np.logaddexp(np.longdouble(0), y.astype(np.longdouble) @ exact["w1"].T + exact["b1"])
    true = hidden @ (exact["w2"][0] - exact["w2"][1]) + exact["b2"][0] - exact["b2"][1]
    assert (np.abs(f - true) <= allowed).all()
    assert (allowed < 1e-8).all()


def test_wrong_and_tied_predictions_have_radius_zero(rng):
    head = random_head(rng, 16, 5, 4)
    y = rng.normal(size=(20, 5))
    predicted = logits(head, y).argmax(axis=1)
    wrong = certify_crc(y, head, (predicted + 1) % 4)
    for field, expected in (
        ("radius", 0),
        ("upper", 0),
        ("exact", True),
        ("rival", predicted),
        ("prediction", predicted),
    ):
        np.testing.assert_array_equal(getattr(wrong, field), expected)

    twin = {name: value.copy() for name, value in head.items()}
    twin["w2"][1], twin["b2"][1] = twin["w2"][0], twin["b2"][0]
    twin["b2"][:2] += 100
    tied = certify_crc(y, twin, np.zeros(20, int))
    for field, expected in (("radius", 0), ("upper", 0), ("exact", True), ("rival", 1), ("prediction", 1)):
        np.testing.assert_array_equal(getattr(tied, field), expected)

    never = {name: value.copy() for name, value in twin.items()}
    never["b2"][1] -= 1.0  # same row, smaller bias: class 1 never wins, so the others set the radius
    certificate = certify_crc(y, never, np.zeros(20, int))
    assert (certificate.radius > 0).all()
    assert not (certificate.rival == 1).any()
    alone = certify_crc(y, never | {"w2": never["w2"][:2], "b2": never["b2"][:2]}, np.zeros(20, int))
    assert np.isinf(alone.radius).all()
    assert alone.exact.all()
    np.testing.assert_array_equal(alone.rival, 1)


def test_a_radius_without_a_boundary_point_is_not_called_exact():
    certificate = certify_crc(np.zeros((1, 2)), nearly_quadratic_head(), [0])  # the gradient is zero: no direction
    assert 0 < certificate.radius[0] < np.inf
    assert np.isinf(certificate.upper[0])
    assert not certificate.exact[0]


def test_a_rival_outside_the_top_nine_can_set_the_radius(rng):
    head = random_head(rng, 16, 6, 12)
    head["w2"] *= 0.05
    head["w2"][11] *= 200
    y = rng.normal(size=(1, 6))
    head["b2"] += np.array([5.0, *[4.0] * 10, 2.5]) - logits(head, y)[0]
    every, nine = certify_crc(y, head, [0]), certify_crc(y, head, [0], rivals=9)
    assert every.protocol == "proof"
    assert nine.protocol == "paper protocol, 9 rivals: not a proof"
    assert every.rival[0] == 11
    assert nine.rival[0] != 11
    distance = found_distance(head, y[0], 0, 11, rng)
    assert nine.radius[0] > 2 * distance
    assert every.radius[0] <= distance * (1 + 1e-9)
    np.testing.assert_array_equal(certify_crc(y, head, [0], rivals=11).radius, every.radius)


def test_screening_and_chunks_do_not_change_the_radius(rng, monkeypatch):
    head = random_head(rng, 16, 5, 4)
    y = rng.normal(size=(60, 5))
    labels = logits(head, y).argmax(axis=1)
    certificate = certify_crc(y, head, labels)
    _, lower, _ = pair_bounds(y, head, labels)
    lower[np.arange(60), labels] = np.inf
    np.testing.assert_allclose(certificate.radius, lower.min(axis=1), rtol=2e-6)
    monkeypatch.setattr(crc, "_CHUNK_BYTES", 16 * 8 * 32)
    chunked = certify_crc(y, head, labels)
    np.testing.assert_allclose(chunked.radius, certificate.radius, rtol=1e-9)
    np.testing.assert_array_equal(chunked.rival, certificate.rival)
    alone = [certify_crc(y[n : n + 1], head, labels[n : n + 1]).radius[0] for n in range(3)]
    np.testing.assert_allclose(alone, certificate.radius[:3], rtol=1e-9)
    assert certify_crc(y[:0], head, labels[:0]).radius.shape == (0,)


def test_float32_features_are_cast_up(rng):
    head, y = random_head(rng, 16, 5, 4), rng.normal(size=(8, 5)).astype(np.float32)
    labels = logits(head, y.astype(float)).argmax(axis=1)
    single, double = certify_crc(y, head, labels), certify_crc(y.astype(float), head, labels)
    assert single.radius.dtype == np.float64
    np.testing.assert_array_equal(single.radius, double.radius)
    assert not jax.config.jax_enable_x64


def test_a_loose_start_is_tightened_only_for_pairs_that_need_it(rng, monkeypatch):
    from lipjax.certificates import curvature_cache

    head, y = random_head(rng, 16, 5, 4, 3.0), rng.normal(size=(30, 5))
    labels = logits(head, y).argmax(axis=1)
    expected = certify_crc(y, head, labels)
    monkeypatch.setattr(curvature_cache, "_TIGHT_AT_ONCE", 0)
    cache = curvature_cache.CurvatureCache(None, head["w1"], head["w2"])
    lazy = certify_crc(y, head, labels, curvature=cache)
    both = expected.exact & lazy.exact
    assert both.mean() > 0.5
    np.testing.assert_allclose(lazy.radius[both], expected.radius[both], rtol=2e-6)
    assert (lazy.radius >= 0.99 * expected.radius).all()
    assert np.isnan(cache._tight).any()


def test_certificates_do_not_depend_on_what_was_asked_before(rng, monkeypatch, tmp_path):
    """Not on other images, nor on every tight bound being known, nor on a file."""
    from lipjax.certificates import curvature_cache

    monkeypatch.setattr(curvature_cache, "_TIGHT_AT_ONCE", 0)
    head, y = random_head(rng, 16, 5, 4, 3.0), rng.normal(size=(30, 5))
    labels = logits(head, y).argmax(axis=1)

    def fresh(path=None):
        return curvature_cache.CurvatureCache(path, head["w1"], head["w2"])

    expected, asked, warm = certify_crc(y, head, labels, curvature=fresh()), fresh(tmp_path / "x.npz"), fresh()
    certify_crc(y[::-1], head, labels[::-1], curvature=asked)
    warm.tight(np.argwhere(~np.eye(4, dtype=bool)))
    for cache in (asked, warm, fresh(tmp_path / "x.npz")):
        found = certify_crc(y, head, labels, curvature=cache)
        for name in ("radius", "rival", "exact", "upper"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_the_dual_solver_reaches_at_least_the_fixed_point_on_hard_pairs(golden):
    from lipjax.certificates.dual_solver import dual_optimum

    data = golden("crc")
    head = golden_head(data) | {"w1": 2 * data["w1"]}  # four times the curvature: eta m -> 1 for many pairs
    with jax.enable_x64(True):
        bounds = curvature_bound(head["w1"], head["w2"])
        pairs = as_pairs(head, data["features"], data["labels"], data["other"][:, 0], bounds)
        w1, b1 = jnp.asarray(head["w1"]), jnp.asarray(head["b1"])
        start = ops.fixed_point(w1, None, pairs, 3)
        first = np.asarray(ops.lower_bound(w1, b1, pairs, start))
        right = np.asarray((pairs.w * ops.softplus_and_slope(pairs.z)[0]).sum(axis=1) + pairs.b) > 0
        solved = np.asarray(ops.lower_bound(w1, b1, pairs, dual_optimum(w1, pairs, start)))
    assert (solved >= first - 1e-6)[right].mean() > 0.95
    assert (solved > first + 1e-4)[right].any()
    with pytest.raises(ValueError, match="float64"):
        dual_optimum(w1.astype(jnp.float32), pairs, start.astype(jnp.float32))


def test_jaxopt_is_imported_in_one_module_without_its_warning():
    code = "import sys, lipjax.certificates; assert 'jaxopt' not in sys.modules; import lipjax.certificates.dual_solver"
    subprocess.run([sys.executable, "-W", "error::DeprecationWarning:jaxopt", "-c", code], check=True)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"features": np.zeros((2, 5), np.float16)}, "features"),
        ({"features": np.full((2, 5), np.nan)}, "features"),
        ({"features": np.zeros((2, 4))}, "w1"),
        ({"features": np.zeros(5)}, "features"),
        ({"labels": [0, 3]}, "labels"),
        ({"labels": [0, -1]}, "labels"),
        ({"labels": [0.0, 1.0]}, "labels"),
        ({"labels": [0]}, "labels"),
        ({"rivals": 0}, "rivals"),
        ({"rivals": 2.5}, "rivals"),
        ({"curvature": np.ones((2, 2))}, "curvature"),
        ({"curvature": -np.ones((3, 3))}, "curvature"),
        ({"curvature": np.full((3, 3), np.nan)}, "curvature"),
        ({"w1": np.zeros((6, 5), np.float16)}, "w1"),
        ({"b1": np.zeros(5)}, "b1"),
        ({"w2": np.zeros((3, 5))}, "w2"),
        ({"w2": np.full((3, 6), np.inf)}, "w2"),
        ({"b2": np.zeros(2)}, "b2"),
        ({"b2": None}, "b2"),
    ],
)
def test_bad_input_raises(rng, change, name):
    arguments = {"features": rng.normal(size=(2, 5)), "head": random_head(rng, 6, 5, 3), "labels": [0, 1]}
    for key, value in change.items():
        if key in arguments["head"]:
            arguments["head"][key] = value
            if value is None:
                del arguments["head"][key]
        else:
            arguments[key] = value
    with pytest.raises(ValueError, match=name):
        certify_crc(**arguments)
