from decimal import Decimal, getcontext

import numpy as np
import pytest

from lipjax.certificates.lln import certify_lln


def normalised(weight):
    return weight / np.linalg.norm(weight, axis=1, keepdims=True)


def random_case(rng, n=60, d=7, k=6):
    features, weight, bias = rng.normal(size=(n, d)), rng.normal(size=(k, d)), 0.1 * rng.normal(size=k)
    predicted = np.argmax(features @ normalised(weight).T + bias, axis=1)
    return features, weight, bias, predicted


def test_golden(golden):
    g = golden("lln")
    certificate = certify_lln(g["features"], g["weight"], g["bias"], g["labels"])
    np.testing.assert_allclose(certificate.radius, np.maximum(g["certs_min"], 0), rtol=1e-12, atol=1e-12)
    right = g["certs_min"] > 0
    assert right.sum() >= 20
    nearest = np.take_along_axis(g["other"], g["certs"].argmin(axis=1)[:, None], axis=1)[:, 0]
    np.testing.assert_array_equal(certificate.rival[right], nearest[right])
    np.testing.assert_array_equal(certificate.rival[~right], g["logits"].argmax(axis=1)[~right])
    np.testing.assert_array_equal(certificate.prediction, g["logits"].argmax(axis=1))
    assert certificate.exact.all()


def test_radius_is_the_distance_to_the_boundary(rng):
    """A step of the radius towards the rival draws level; 1e-9 less does not change the prediction, 1e-9 more does."""
    features, weight, bias, labels = random_case(rng)
    certificate = certify_lln(features, weight, bias, labels)
    rows = normalised(weight)
    for i, label in enumerate(labels):
        direction = rows[certificate.rival[i]] - rows[label]
        direction /= np.linalg.norm(direction)
        for factor, holds in ((1 - 1e-9, True), (1 + 1e-9, False)):
            logits = rows @ (features[i] + factor * certificate.radius[i] * direction) + bias
            assert (np.argmax(logits) == label) == holds


def test_a_slack_is_taken_off_the_logit_of_the_label(rng):
    """The radius is that of a head whose bias of the label is as much smaller."""
    features, weight, bias, labels = random_case(rng)
    plain = certify_lln(features, weight, bias, labels).radius
    for i, label in enumerate(labels):
        lowered = bias - 0.05 * np.eye(len(bias))[label]
        expected = certify_lln(features[i : i + 1], weight, lowered, labels[i : i + 1]).radius
        found = certify_lln(features[i : i + 1], weight, bias, labels[i : i + 1], slack=0.05).radius
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        assert found[0] < plain[i] or plain[i] == 0


def test_nothing_within_the_radius_changes_the_prediction(rng):
    features, weight, bias, labels = random_case(rng)
    certificate = certify_lln(features, weight, bias, labels)
    rows = normalised(weight)
    for i, label in enumerate(labels):
        directions = np.concatenate([rng.normal(size=(50, 7)), np.delete(rows - rows[label], label, axis=0)])
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        logits = (features[i] + certificate.radius[i] * (1 - 1e-12) * directions) @ rows.T + bias
        assert (np.argmax(logits, axis=1) == label).all()


def test_every_rival_counts():
    """Over all K − 1 rivals, not the nine highest logits: here the class of the lowest logit has the nearest boundary.

    Ten rivals nearly parallel to the label leave far away at logits just below it; the opposite row is two units away.
    """
    angles = np.concatenate([[0.0], 0.01 * np.arange(1, 11), [np.pi]])
    weight = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    features = np.array([[1.0, 0.0]])
    bias = np.concatenate([[0.0], np.full(10, -0.5), [0.9]])
    logits = features @ weight.T + bias
    bias[11] -= logits[0, 11] - (logits[0, 1:11].min() - 0.01)
    certificate = certify_lln(features, weight, bias, [0])
    logits = features @ weight.T + bias
    assert np.argmin(logits[0]) == 11
    assert certificate.rival[0] == 11
    np.testing.assert_allclose(certificate.radius[0], (logits[0, 0] - logits[0, 11]) / 2, rtol=1e-12)
    assert certify_lln(features, weight[:11], bias[:11], [0]).radius[0] > 2 * certificate.radius[0]


@pytest.mark.parametrize("distance", [1e-3, 3e-4, 1e-6, 1e-8])
def test_nearly_equal_rows(distance):
    """sqrt(2(1 − cos)) in float32 is 1.7 % off at 1e-3 and useless below 3e-4; the difference of rows is not."""
    weight = np.array([[1.0, 0.0], [np.cos(distance), np.sin(distance)]])
    certificate = certify_lln(np.zeros((1, 2)), weight, np.array([1e-3, 0.0]), [0])
    true = 1e-3 / (2 * np.sin(distance / 2))
    assert certificate.radius[0] <= true
    # The rows are rounded to 1e-16, and 18 eps is subtracted for that: all that a distance of `distance` may lose.
    assert certificate.radius[0] >= true * (1 - 1e-14 / distance)


def test_equal_rows_never_win_or_always():
    weight = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    certificate = certify_lln(np.array([[1.0, 0.0]]), weight, np.array([0.1, 0.0, 0.0]), [0])
    np.testing.assert_allclose(certificate.radius, 1.1 / np.sqrt(2))
    assert certificate.rival[0] == 2
    alone = certify_lln(np.ones((1, 2)), weight[:2], np.array([0.1, 0.0]), [0])
    assert np.isinf(alone.radius[0])
    assert alone.rival[0] == 1
    assert certify_lln(np.ones((1, 2)), weight[:2], np.array([0.0, 0.1]), [0]).radius[0] == 0


def test_wrong_and_tied_predictions_have_radius_zero(rng):
    features, weight, bias, labels = random_case(rng)
    wrong = (labels + 1) % 6
    certificate = certify_lln(features, weight, bias, wrong)
    np.testing.assert_array_equal(certificate.radius, 0.0)
    np.testing.assert_array_equal(certificate.rival, labels)
    np.testing.assert_array_equal(certificate.prediction, labels)
    # Two equal rows of equal bias tie everywhere, at no distance; of other bias one never draws level.
    twins, bias = np.array([[3.0, 4.0], [3.0, 4.0], [-1.0, 0.0]]), np.array([0.5, 0.5, 0.0])
    for label in (0, 1):
        tied = certify_lln(np.ones((1, 2)), twins, bias, [label])
        assert (tied.radius[0], tied.rival[0], tied.prediction[0]) == (0.0, 1 - label, 1 - label)
    ahead = certify_lln(np.ones((1, 2)), twins, bias - [0, 0.25, 0], [0])
    assert (ahead.radius[0] > 0.5, ahead.rival[0], ahead.prediction[0]) == (True, 2, 0)


def test_ties_up_to_rounding_have_radius_zero(rng):
    """Logits that tie in exact arithmetic, summed in another order: no rounding may break the tie."""
    for _ in range(200):
        w = rng.normal(size=16)
        weight = np.stack([w, rng.permutation(w)])
        for label in (0, 1):
            certificate = certify_lln(np.full((1, 16), 3.0), weight, np.zeros(2), [label])
            assert certificate.radius[0] == 0.0
            assert certificate.prediction[0] == 1 - label


def test_nearly_parallel_rows_against_exact_arithmetic(rng):
    """Rows that differ in their last bits only: the radius is at most the distance, computed with 60 digits."""
    getcontext().prec = 60
    positive = inexact = 0
    for _ in range(150):
        w = rng.normal(size=8)
        weight = np.stack([w, w * 3 * (1 + 2e-16 * rng.integers(-2, 3, 8))])
        y, bias = rng.normal(size=8), np.array([rng.choice([0.0, 1e-15, 1e-3, 1.0]), 0.0])
        certificate = certify_lln(y[None], weight, bias, [0])
        radius, upper = certificate.radius[0], certificate.upper[0]
        rows = [[Decimal(x) for x in row.tolist()] for row in weight]
        norms = [sum(x * x for x in row).sqrt() for row in rows]
        slope = [a / norms[0] - b / norms[1] for a, b in zip(*rows, strict=True)]
        margin = sum(d * Decimal(x) for d, x in zip(slope, y.tolist(), strict=True)) + Decimal(float(bias[0]))
        length = sum(d * d for d in slope).sqrt()
        if radius > 0:
            positive += 1
            assert margin > 0
            assert length == 0 or Decimal(float(radius)) <= margin / length
            assert upper == np.inf if length == 0 else margin / length <= Decimal(float(upper))
            assert certificate.exact[0] == (radius >= (1 - 1e-6) * upper)
            inexact += not certificate.exact[0]
    assert positive > 30
    assert inexact > 10


@pytest.mark.parametrize(
    ("features", "weight", "bias"),
    [
        ([1.0, 2.0, 3.0, 4.0], [[1, 2, 3, 4], [1, 2, 3, np.nextafter(4, 5)]], [10.0, 0.0]),
        ([1e200, 0.0, 1e200, 0.0], [[1, 2, 3, 4], [2, 1, 4, 3]], [1.0, 0.0]),
        ([1e-170, 2e-170, 0.0, 1e-170], [[1, 2, 3, 4], [2, 1, 4, 3]], [1.0, 0.0]),
        ([1.0, 1.0, 1.0, 1.0], [[1, 2, 3, 4], [2, 1, 4, 3]], [1.7e308, -1.7e308]),
    ],
)
def test_extreme_heads_are_bounded_and_not_called_exact_without_reason(features, weight, bias):
    certificate = certify_lln(np.array([features]), np.array(weight, float), np.array(bias), [0])
    assert certificate.radius[0] <= certificate.upper[0]
    assert not np.isnan(certificate.upper[0])
    assert certificate.exact[0] == (certificate.radius[0] >= (1 - 1e-6) * certificate.upper[0])


def test_float32_features_are_cast_up(rng):
    features, weight, bias, labels = (np.asarray(a) for a in random_case(rng))
    single = certify_lln(features.astype("float32"), weight, bias, labels)
    double = certify_lln(features.astype("float32").astype("float64"), weight, bias, labels)
    np.testing.assert_array_equal(single.radius, double.radius)
    assert single.radius.dtype == np.float64


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"features": np.zeros((3, 4), "float16")}, "features: dtype must be float32 or float64, got float16"),
        ({"features": np.zeros((3, 5))}, "weight: shape"),
        ({"features": np.full((3, 4), np.nan)}, "features: has entries that are not finite"),
        ({"weight": np.full((2, 4), np.inf)}, "weight: has entries that are not finite"),
        ({"weight": np.zeros((2, 4))}, "row 0 is zero"),
        ({"bias": np.zeros(3)}, "bias: shape"),
        ({"labels": [0, 1, 2]}, r"labels: must lie in \[0, 2\)"),
        ({"labels": [0, -1, 1]}, r"labels: must lie in \[0, 2\)"),
        ({"labels": [0.0, 1.0, 1.0]}, "labels: must be 3 integers"),
        ({"labels": [0, 1]}, "labels: must be 3 integers"),
        ({"weight": np.ones((1, 4)), "bias": np.zeros(1), "labels": [0, 0, 0]}, "at least 2 classes"),
    ],
)
def test_bad_input(change, text):
    arguments = {"features": np.ones((3, 4)), "weight": np.eye(2, 4), "bias": np.zeros(2), "labels": [0, 1, 1]}
    with pytest.raises(ValueError, match=text):
        certify_lln(**{**arguments, **change})
