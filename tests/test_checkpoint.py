import json
import shutil
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from lipjax.checkpoint import CheckpointError, Checkpoints, sha256


class State(NamedTuple):
    step: Any
    params: Any
    extra: Any


@pytest.fixture
def state(rng):
    kernel = rng.normal(size=(3, 3, 4, 4)).astype("float32")
    return State(np.int32(7), {"b": {"kernel": kernel}, "a": {"bias": rng.normal(size=4)}}, ((), (np.ones(3),)))


def test_round_trip_is_exact(tmp_path, state):
    checkpoints = Checkpoints(tmp_path)
    assert not checkpoints.has("last")
    checkpoints.save(state, 1, None)
    restored, metadata = checkpoints.restore("last", state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    assert all(a.dtype == b.dtype for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True))
    assert metadata["epoch"] == 1
    assert metadata["params_sha256"] == sha256(state.params)
    assert not checkpoints.has("best")


def test_best_keeps_the_highest_score_and_last_the_newest(tmp_path, state):
    checkpoints = Checkpoints(tmp_path)
    for epoch, score in enumerate([0.2, 0.5, 0.3, 0.5], start=1):
        checkpoints.save(state._replace(step=np.int32(epoch)), epoch, score)
    assert int(checkpoints.restore("best", state)[0].step) == 2
    assert int(checkpoints.restore("last", state)[0].step) == 4
    assert sorted(path.name for path in (tmp_path / "checkpoints" / "last").iterdir()) == ["3", "4"]


def test_a_run_that_comes_by_again_may_do_better(tmp_path, state):
    """Killed after 'best' and before 'last', and resumed where numbers differ a little: the newer state is kept."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state._replace(step=np.int32(3)), 3, 0.2)
    checkpoints.save(state, 7, 0.3)
    shutil.rmtree(checkpoints.directory / "last" / "7")
    again = state._replace(extra=((), (np.zeros(3),)))
    checkpoints.save(again, 7, 0.4)
    for kind in ("best", "last"):
        restored, metadata = checkpoints.restore(kind, again)
        jax.tree.map(np.testing.assert_array_equal, restored, again)
        assert metadata["score"] == 0.4


def data_files(tmp_path):
    return sorted(path for path in (tmp_path / "checkpoints" / "last" / "7" / "state").rglob("*") if path.is_file())


def test_hash_sees_every_change(state):
    changed = [
        state.params | {"a": {"bias": np.nextafter(state.params["a"]["bias"], 9)}},
        state.params | {"a": {"bias": state.params["a"]["bias"].astype("float32")}},
        state.params | {"a": {"bias": state.params["a"]["bias"][None]}},
        {"b": state.params["b"], "c": state.params["a"]},
    ]
    assert len({sha256(tree) for tree in [state.params, *changed]}) == 5


def test_one_flipped_byte_anywhere_is_caught(tmp_path, state, rng):
    """Each data file of the checkpoint, a byte at several places: an error, or the very state that was saved.

    Some bytes (of an unused part of a file) carry nothing: reading may then succeed, but never give another state.
    """
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, 1, None)
    caught = 0
    for path in data_files(tmp_path):
        original = path.read_bytes()
        for place in rng.integers(0, len(original), 6):
            path.write_bytes(original[:place] + bytes([original[place] ^ 16]) + original[place + 1 :])
            try:
                restored, _ = checkpoints.restore("last", state)
            except CheckpointError:
                caught += 1
            else:
                jax.tree.map(np.testing.assert_array_equal, restored, state)
        path.write_bytes(original)
    assert caught > 6
    checkpoints.restore("last", state)


def test_altered_values_are_caught_by_the_hash(tmp_path, state):
    """A checkpoint rewritten consistently, so that no checksum of the format notices: one bit off."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, 1, None)
    path = next((tmp_path / "checkpoints" / "last" / "7" / "metadata").iterdir())
    metadata = json.loads(path.read_text())
    other = jax.tree.map(np.copy, state)
    other.params["b"]["kernel"].view("uint32").flat[5] ^= 1
    Checkpoints(tmp_path / "other").save(other, 1, None)
    there = next((tmp_path / "other" / "checkpoints" / "last" / "7" / "metadata").iterdir())
    there.write_text(json.dumps(metadata))
    with pytest.raises(CheckpointError, match="was altered"):
        Checkpoints(tmp_path / "other").restore("last", state)


def test_altered_metadata_is_caught(tmp_path, state):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, 3, 0.25)
    path = next((tmp_path / "checkpoints" / "last" / "7" / "metadata").iterdir())
    original = path.read_text()
    for text in (original.replace('"epoch": 3', '"epoch": 1'), original.replace("0.25", "0.75"), "[]", "{}", "{"):
        assert text != original
        path.write_text(text)
        with pytest.raises(CheckpointError, match="metadata"):
            checkpoints.restore("last", state)


def test_truncated_and_missing(tmp_path, state):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match="no 'last' checkpoint in .*: train first"):
        checkpoints.restore("last", state)
    checkpoints.save(state, 1, None)
    for path in data_files(tmp_path):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoints.restore("last", state)


def test_another_architecture_names_the_leaf(tmp_path, state):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, 1, None)
    other = state._replace(params={"b": {"kernel": np.zeros((3, 3, 6, 6), "float32")}, "a": state.params["a"]})
    with pytest.raises(
        CheckpointError, match=r"params/b/kernel is float32 \(3, 3, 4, 4\) there, float32 \(3, 3, 6, 6\)"
    ):
        checkpoints.restore("last", other)
    with pytest.raises(CheckpointError, match=r"params/c is absent there"):
        checkpoints.restore("last", state._replace(params={**state.params, "c": np.zeros(2)}))


@pytest.mark.parametrize(
    "name", ["run[1]", "[!a]", "back\\slash", "**", "run*", "a?b", "a#b%20c", "gs:", "{x}", "new\nline"]
)
def test_names_that_would_be_patterns_or_urls(tmp_path, name):
    """Beside a folder that the pattern would match."""
    (tmp_path / "run1").mkdir()
    checkpoints = Checkpoints(tmp_path / name)
    for step in (3, 5):
        checkpoints.save(State(np.int32(step), {"w": np.arange(4.0) + step}, ()), 1, score=float(step))
    assert sorted(path.name for path in (tmp_path / name / "checkpoints" / "last").iterdir()) == ["3", "5"]
    for kind in ("last", "best"):
        state, metadata = checkpoints.restore(kind, State(np.int32(0), {"w": np.zeros(4)}, ()))
        assert metadata["step"] == 5
        np.testing.assert_array_equal(state.params["w"], np.arange(4.0) + 5)
    assert not list((tmp_path / "run1").iterdir())


def test_a_checkpoint_that_a_training_replaces_while_it_is_read(tmp_path, monkeypatch):
    """Certification beside a training that goes on: the parameters and the metadata are of one step."""
    checkpoints, read = Checkpoints(tmp_path, kept=1), Checkpoints._read
    checkpoints.save(State(np.int32(1), {"w": np.zeros(4)}, ()), 1, None)
    replaced = []

    def meanwhile(self, kind, step, item, arguments):
        if item == "state" and not replaced:
            replaced.append(step)
            checkpoints.save(State(np.int32(2), {"w": np.ones(4)}, ()), 2, None)
        return read(self, kind, step, item, arguments)

    monkeypatch.setattr(Checkpoints, "_read", meanwhile)
    state, metadata = checkpoints.restore("last", State(np.int32(0), {"w": np.zeros(4)}, ()))
    assert (replaced, metadata["step"], int(state.step), state.params["w"].sum()) == ([1], 2, 2, 4)
