import json
import shutil

import jax
import numpy as np
import pytest
from conftest import quiet, records, tiny_config

from lipjax.checkpoint import CheckpointError, Checkpoints, sha256
from lipjax.evaluation.split import certify_run
from lipjax.training import loop
from lipjax.training.loop import TrainingDiverged, train
from lipjax.workdir import load_trained


class Stop(Exception):
    pass


def test_files_of_a_run(trained):
    workdir, state = trained
    config = json.loads((workdir / "config.json").read_text())
    assert config["data"]["name"] == "digits"
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    assert records[-1]["loss"] < records[0]["loss"]
    assert records[-1]["validation_accuracy"] > 0.2
    assert 0 <= records[-1]["validation_certified_estimate_0.1"] <= records[-1]["validation_accuracy"]
    assert int(state.step) == 4 * (1150 // 256)
    assert Checkpoints(workdir).has("best")


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_stopped_run_resumes_bit_equal(trained, tmp_path, stop_after):
    """Stopped while it writes the record of an epoch, then run again by the same command."""

    def stop(line):
        if line.startswith(f"epoch {stop_after}/4  loss"):
            raise Stop

    with pytest.raises(Stop):
        train(tiny_config(), tmp_path, say=stop)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 9, "lo')  # cut short
    lines = []
    resumed = train(tiny_config(), tmp_path, say=lines.append)
    assert f"resuming {tmp_path} after epoch {stop_after}" in lines
    workdir, unbroken = trained
    jax.tree.map(np.testing.assert_array_equal, resumed, unbroken)

    assert records(tmp_path) == records(workdir)


@pytest.fixture
def third_is_best(monkeypatch):
    """Scores of the epochs on held-out images: the third is the best, the fourth the last."""
    scores = iter([0.1, 0.2, 0.4, 0.3])
    monkeypatch.setattr(loop, "evaluate", lambda *_: {"validation_certified_estimate_0.1": next(scores)})


def test_the_best_checkpoint_is_the_one_that_is_certified(tmp_path, third_is_best):
    state = train(tiny_config(), tmp_path, say=quiet)
    checkpoints = Checkpoints(tmp_path)
    assert [checkpoints.metadata(kind)["epoch"] for kind in ("best", "last")] == [3, 4]
    summary = certify_run(tmp_path, num_examples=20, say=quiet)
    assert summary["params_sha256"] == checkpoints.metadata("best")["params_sha256"]
    assert summary["params_sha256"] != sha256(state.params) == checkpoints.metadata("last")["params_sha256"]
    assert sha256(load_trained(tmp_path).variables["params"]) == summary["params_sha256"]


@pytest.mark.parametrize("kind", ["best", "last"])
def test_a_run_killed_within_a_checkpoint_resumes_bit_equal(trained, tmp_path, monkeypatch, kind, third_is_best):
    """Killed before it writes `kind` of epoch 3: after the record of the epoch, or between the two checkpoints."""
    save = Checkpoints._save

    def killed(self, what, kept, state, metadata):
        if metadata["epoch"] == 3 and what == kind:
            raise Stop
        save(self, what, kept, state, metadata)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Checkpoints, "_save", killed)
        train(tiny_config(), tmp_path, say=quiet)
    third_and_fourth = iter([0.4, 0.3])  # the resumed run comes by them again
    monkeypatch.setattr(loop, "evaluate", lambda *_: {"validation_certified_estimate_0.1": next(third_and_fourth)})
    resumed = train(tiny_config(), tmp_path, say=quiet)
    jax.tree.map(np.testing.assert_array_equal, resumed, trained[1])
    assert [Checkpoints(tmp_path).metadata(kind)["epoch"] for kind in ("best", "last")] == [3, 4]
    epochs = [json.loads(line)["epoch"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3, 4]


def test_the_test_split_chooses_nothing(trained, tmp_path, monkeypatch):
    """Training with the test images replaced by zeros gives the same states and the same best checkpoint."""
    from lipjax.data import Split
    from lipjax.training import loop as training

    loaded = training.loaded

    def blind(*arguments):
        dataset = loaded(*arguments)
        return dataset.__class__(**{**vars(dataset), "test": Split(*(np.zeros_like(a) for a in dataset.test))})

    monkeypatch.setattr(training, "loaded", blind)
    state = train(tiny_config(), tmp_path, say=quiet)
    jax.tree.map(np.testing.assert_array_equal, state, trained[1])
    best = Checkpoints(tmp_path).metadata("best")
    assert best == Checkpoints(trained[0]).metadata("best")


def test_a_finished_run_is_left_alone(trained):
    workdir, state = trained
    before = (workdir / "metrics.jsonl").read_text()
    again = train(tiny_config(), workdir, say=quiet)
    jax.tree.map(np.testing.assert_array_equal, again, state)
    assert (workdir / "metrics.jsonl").read_text() == before


def test_divergence_names_the_step_and_keeps_the_checkpoint(trained, tmp_path, monkeypatch):
    from lipjax.training import loop as training

    def stop(line):
        if line.startswith("epoch 2/4  loss"):
            raise Stop

    with pytest.raises(Stop):
        train(tiny_config(), tmp_path, say=stop)
    before = Checkpoints(tmp_path).metadata("last")
    make = training.compiled_step

    def broken(*arguments):
        step = make(*arguments)

        def breaks(state, *rest):
            with jax.transfer_guard("allow"):
                if int(state.step) == 10:
                    state = state._replace(params=jax.tree.map(lambda leaf: leaf * np.nan, state.params))
            return step(state, *rest)

        return breaks

    monkeypatch.setattr(training, "compiled_step", broken)
    with pytest.raises(TrainingDiverged, match=r"the loss at step 10 \(epoch 3\) is not finite"):
        train(tiny_config(), tmp_path, say=quiet)
    assert Checkpoints(tmp_path).metadata("last") == before
    monkeypatch.undo()
    jax.tree.map(np.testing.assert_array_equal, train(tiny_config(), tmp_path, say=quiet), trained[1])


def test_parameters_that_overflow_are_never_saved_as_good(tmp_path):
    """The loss of the only step is finite, its update is not: the run stops at that step, without a checkpoint."""
    config = tiny_config()
    config.update_from_flattened_dict({"run.batch_size": 1150, "run.epochs": 1, "optimizer.learning_rate": 1e300})
    config.optimizer.schedule = {"name": "constant_schedule"}
    with pytest.raises(TrainingDiverged, match=r"at step 0 \(epoch 1\)"):
        train(config, tmp_path, say=quiet)
    assert not Checkpoints(tmp_path).has("last")


def test_a_missing_checkpoint_is_not_taken_for_a_fresh_start(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "last")
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(CheckpointError, match="records 4 epochs but has no 'last' checkpoint"):
        train(tiny_config(), tmp_path / "run", say=quiet)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_bad_input_loses_nothing(trained, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained[0], workdir)
    config = tiny_config()
    config.run.seed = 5
    with pytest.raises(ValueError, match="another config .*seed: 0 there, 5 now"):
        train(config, workdir, say=quiet)
    config = tiny_config()
    config.data.name = "digit"
    with pytest.raises(ValueError, match="'digit' is not known; allowed: 'digits'"):
        train(config, tmp_path / "new", say=quiet)
    config = tiny_config()
    config.run.batch_size = 5000
    with pytest.raises(ValueError, match=r"config\.run\.batch_size=5000: must be at most 1150"):
        train(config, tmp_path / "new", say=quiet)
    config.model.depth = 7
    with pytest.raises(ValueError, match=r"config\.model\.depth=7"):
        train(config, tmp_path / "new", say=quiet)
    assert not (tmp_path / "new").exists()
    for path in (workdir / "checkpoints" / "last").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="checkpoint .*run/checkpoints/last/16"):
        train(tiny_config(), workdir, say=quiet)
