import errno
import os

import numpy as np
import pytest

from lipjax.certificates import curvature_cache
from lipjax.certificates.curvature_cache import CurvatureCache
from lipjax.ops.curvature import cheap_curvature_bound, curvature_bound


def true_curvature(w1, w2, label, rival):
    weights = np.maximum(w2[rival] - w2[label], 0) / 4
    return np.linalg.eigvalsh(w1.T @ (weights[:, None] * w1))[-1]


def random_weights(rng, hidden, width, classes, scale=1.0):
    return scale * rng.normal(size=(hidden, width)), rng.normal(size=(classes, hidden))


def test_golden_bounds_are_above_the_true_values_and_within_one_percent(golden):
    data = golden("crc")
    bounds = curvature_bound(data["w1"], data["w2"])
    labels, others = data["labels"][:, None], data["other"]
    for got, true in ((bounds[labels, others], data["m_eig"]), (bounds[others, labels], data["M_eig"])):
        assert (got >= true).all()
        assert (got <= 1.01 * true).all()
    assert bounds.dtype == np.float64
    np.testing.assert_array_equal(np.diag(bounds), 0)


@pytest.mark.parametrize(("hidden", "width", "classes"), [(1, 1, 2), (7, 3, 3), (20, 70, 3), (90, 12, 4)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5])
def test_random_bounds_never_below_and_close(rng, hidden, width, classes, scale):
    w1, w2 = random_weights(rng, hidden, width, classes, scale)
    tight, cheap = curvature_bound(w1, w2), cheap_curvature_bound(w1, w2)
    for label in range(classes):
        for rival in set(range(classes)) - {label}:
            true = true_curvature(w1, w2, label, rival)
            assert true * (1 - 1e-13) <= tight[label, rival] <= 1.01 * true + 1e-300
            assert cheap[label, rival] >= true * (1 - 1e-13)


def test_pairs_are_entries_of_the_matrix_and_the_hessian_stays_inside(rng):
    w1, w2 = random_weights(rng, 12, 5, 4)
    bounds = curvature_bound(w1, w2)
    pairs = [(0, 3), (3, 0), (2, 2)]
    np.testing.assert_array_equal(curvature_bound(w1, w2, pairs), [bounds[0, 3], bounds[3, 0], 0])
    assert curvature_bound(w1, w2, []).shape == (0,)
    for _ in range(200):
        slopes = 1 / (2 + 2 * np.cosh(w1 @ rng.normal(size=5)))
        eigenvalues = np.linalg.eigvalsh(w1.T @ (((w2[0] - w2[3]) * slopes)[:, None] * w1))
        assert -bounds[0, 3] <= eigenvalues[0]
        assert eigenvalues[-1] <= bounds[3, 0]


def test_a_pair_without_negative_curvature_has_bound_zero(rng):
    w1 = rng.normal(size=(6, 4))
    w2 = np.stack([np.ones(6), np.zeros(6), np.ones(6)])
    bounds = curvature_bound(w1, w2)
    assert bounds[0, 1] == 0
    assert bounds[0, 2] == bounds[2, 0] == 0
    assert bounds[1, 0] > 0
    np.testing.assert_array_equal(curvature_bound(0 * w1, w2), 0)


def test_the_cheap_bound_of_a_random_head_is_within_twice_the_tight_one(rng):
    w1, w2 = random_weights(rng, 64, 32, 6)
    off_diagonal = ~np.eye(6, dtype=bool)
    ratio = cheap_curvature_bound(w1, w2)[off_diagonal] / curvature_bound(w1, w2)[off_diagonal]
    assert ratio.max() < 2


@pytest.mark.parametrize("function", [curvature_bound, cheap_curvature_bound])
@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"w1": np.zeros((6, 4), np.float16)}, "w1"),
        ({"w1": np.full((6, 4), np.nan)}, "w1"),
        ({"w1": np.zeros(6)}, "w1"),
        ({"w2": np.full((3, 6), np.inf)}, "w2"),
        ({"w2": np.zeros((3, 5))}, "w2"),
        ({"w2": np.zeros((3, 6), int)}, "w2"),
    ],
)
def test_bad_weights_raise(function, change, name):
    with pytest.raises(ValueError, match=name):
        function(**({"w1": np.ones((6, 4)), "w2": np.ones((3, 6))} | change))


@pytest.mark.parametrize("pairs", [[(0, 3)], [(-1, 0)], [0, 1], [(0.0, 1.0)], [(0, 1, 2)]])
def test_bad_pairs_raise(pairs):
    with pytest.raises(ValueError, match="pairs"):
        curvature_bound(np.ones((6, 4)), np.ones((3, 6)), pairs)


@pytest.fixture
def large_head(rng, monkeypatch):
    """A head that counts as too large to bound every pair at once."""
    monkeypatch.setattr(curvature_cache, "_TIGHT_AT_ONCE", 0)
    return random_weights(rng, 10, 6, 4)


def test_cache_is_cheap_and_tight_where_asked_for(large_head):
    cache = CurvatureCache(None, *large_head)
    tight, cheap = curvature_bound(*large_head), cheap_curvature_bound(*large_head)
    np.testing.assert_array_equal(cache.bounds(), cheap)
    np.testing.assert_array_equal(cache.tight([(1, 2), (3, 0), (1, 1)]), [tight[1, 2], tight[3, 0], 0])
    np.testing.assert_array_equal(cache.bounds(), cheap)  # whatever was asked before


def test_cache_of_a_small_head_is_tight_everywhere(rng):
    weights = random_weights(rng, 10, 6, 4)
    np.testing.assert_array_equal(CurvatureCache(None, *weights).bounds(), curvature_bound(*weights))


def test_cache_reads_its_file_instead_of_computing(large_head, tmp_path, monkeypatch):
    path = tmp_path / "curvature.npz"
    first = CurvatureCache(path, *large_head)
    first.bounds()
    values = first.tight([(0, 1)])
    assert [p.name for p in tmp_path.iterdir()] == ["curvature.npz"]
    for name in ("pair_bound", "part_bound", "cheap_of_parts"):
        monkeypatch.setattr(curvature_cache, name, lambda *_: pytest.fail("computed again"))
    again = CurvatureCache(path, *large_head)
    np.testing.assert_array_equal(again.tight([(0, 1)]), values)
    np.testing.assert_array_equal(again.bounds(), first.bounds())


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("name", ["part_bound", "pair_bound"])
@pytest.mark.parametrize("done", [0, 1, 4])
def test_an_interrupted_computation_goes_on_to_the_same_bytes(large_head, tmp_path, monkeypatch, name, stop, done):
    monkeypatch.setattr(curvature_cache.os, "cpu_count", lambda: 1)
    whole, calls, pairs = getattr(curvature_cache, name), [], np.argwhere(~np.eye(4, dtype=bool))

    def compute(path, limit=np.inf):
        def bound(*arguments):
            calls.append(arguments[2:])
            if len(calls) > limit:
                raise stop
            return whole(*arguments)

        calls.clear()
        monkeypatch.setattr(curvature_cache, name, bound)
        cache = CurvatureCache(path, *large_head)
        return cache.bounds(), cache.tight(pairs)

    expected, total = compute(tmp_path / "unbroken.npz"), len(calls)
    assert len(set(calls)) == total
    with pytest.raises(stop):
        compute(tmp_path / "broken.npz", done)
    found = compute(tmp_path / "broken.npz")
    assert len(calls) == total - done
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (tmp_path / "broken.npz").read_bytes() == (tmp_path / "unbroken.npz").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"broken.npz", "unbroken.npz"}


def test_what_was_computed_is_saved_on_the_way(large_head, tmp_path, monkeypatch):
    """A kill loses what came since the last save, not more: here each bound is saved before the next but one."""
    monkeypatch.setattr(curvature_cache, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(curvature_cache.os, "cpu_count", lambda: 1)
    path, seen, whole = tmp_path / "curvature.npz", [], CurvatureCache._save

    def save(self):
        whole(self)
        with np.load(path) as file:
            seen.append(int(np.isfinite(file["parts"]).sum()))

    monkeypatch.setattr(CurvatureCache, "_save", save)
    CurvatureCache(path, *large_head).bounds()
    assert sorted(set(seen)) == list(range(1, 10))


@pytest.mark.parametrize("classes", [2, 65, 130])
def test_cheap_bounds_are_above_the_tight_ones_in_every_block_of_rivals(rng, classes):
    w1, w2 = random_weights(rng, 5, 3, classes)
    w1[:, 0] *= 30  # ‖W1‖² max(c) is often the smaller
    tight, cheap = curvature_bound(w1, w2), cheap_curvature_bound(w1, w2)
    assert (cheap >= tight * (1 - 1e-3)).all()  # tight is up to 0.03 % above the truth
    flat = cheap_curvature_bound(w1, np.sign(w2))
    largest = np.maximum(np.sign(w2)[None] - np.sign(w2)[:, None], 0).max(axis=2)
    whole = np.linalg.norm(w1, 2) ** 2 / 4
    assert (flat <= whole * largest * 1.001).all()


@pytest.mark.parametrize("damage", ["truncated", "garbage", "smaller values", "other head", "missing entry"])
def test_cache_ignores_a_damaged_or_foreign_file(large_head, tmp_path, damage):
    path = tmp_path / "curvature.npz"
    w1, w2 = large_head
    CurvatureCache(path, w1, w2).tight([(0, 1)])
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "garbage":
        path.write_bytes(b"not a zip file")
    elif damage == "other head":
        CurvatureCache(path, w1 / 2, w2).tight([(0, 1)])
    else:
        with np.load(path) as file:
            entries = dict(file)
        entries["tight"] = entries["tight"] / 2
        if damage == "missing entry":
            del entries["sha256"]
        np.savez(path, **entries)
    assert CurvatureCache(path, w1, w2).tight([(0, 1)]) == curvature_bound(w1, w2, [(0, 1)])
    assert CurvatureCache(path, w1, w2)._tight[0, 1] == curvature_bound(w1, w2, [(0, 1)])  # replaced on disk


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_where_bounds_cannot_be_kept_that_is_told_once(large_head, tmp_path, monkeypatch, caplog, number):
    def refuse(**given):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(curvature_cache.tempfile, "mkstemp", refuse)
    path = tmp_path / "curvature.npz"
    cache = CurvatureCache(path, *large_head)
    with caplog.at_level("WARNING", "lipjax"):
        found = cache.tight([[0, 1]]), cache.tight([[1, 0]])
    monkeypatch.undo()
    alone = CurvatureCache(None, *large_head)
    assert found == (alone.tight([[0, 1]]), alone.tight([[1, 0]]))
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} cannot be written ({os.strerror(number)}): curvature bounds will be computed again"
    ]
