"""What a training must not lose: to another process, to a longer run, to a machine that is too small, to a signal."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest
from conftest import quiet, records, tiny_config

from lipjax.checkpoint import CheckpointError, Checkpoints, sha256
from lipjax.data import DataError, Description
from lipjax.system.interruption import Interrupted
from lipjax.system.lock import LockedError
from lipjax.training import loop as training
from lipjax.training import memory
from lipjax.training.loop import LOCK_FILE, train
from lipjax.training.recipe import Metrics
from lipjax.training.resume import keep_metrics
from lipjax.workdir import read_config


def with_changes(**changes):
    config = tiny_config()
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config


def test_a_second_training_in_the_workdir_is_refused_and_changes_nothing(tmp_path, trained):
    def say(line):
        if line.startswith("epoch 2/4  loss"):
            with pytest.raises(LockedError, match=f"process {os.getpid()} .* has been training there"):
                train(tiny_config(), tmp_path, say=quiet)

    assert sha256(train(tiny_config(), tmp_path, say=say)) == sha256(trained[1])
    assert not (tmp_path / LOCK_FILE).exists()


def test_one_whose_lock_was_removed_writes_nothing_more(tmp_path, trained):
    """Stopped for a while, the lock removed by hand, the same command finished, and the first goes on."""
    states = []

    def say(line):
        if line.startswith("epoch 2/4  loss"):
            (tmp_path / LOCK_FILE).unlink()
            states.append(train(tiny_config(), tmp_path, say=quiet))

    with pytest.raises(LockedError, match="was removed while training went on"):
        train(tiny_config(), tmp_path, say=say)
    assert sha256(states[0]) == sha256(trained[1])
    assert Checkpoints(tmp_path).metadata("last") == Checkpoints(trained[0]).metadata("last")
    assert records(tmp_path) == records(trained[0])


def test_a_finished_run_is_lengthened_and_never_shortened(tmp_path):
    train(with_changes(run__epochs=1), tmp_path, say=quiet)
    lines = []
    state = train(with_changes(run__epochs=2), tmp_path, say=lines.append)
    assert int(state.step) == 8
    assert any(line.startswith("lengthened from 1 to 2 epochs: from here on the schedule") for line in lines)
    assert [record["epoch"] for record in records(tmp_path)] == [1, 2]
    assert read_config(tmp_path).run.epochs == 2
    with pytest.raises(ValueError, match=r"config\.run\.epochs=1: must be >= 2, the epochs trained in workdir="):
        train(with_changes(run__epochs=1), tmp_path, say=quiet)
    assert read_config(tmp_path).run.epochs == 2


def test_epochs_mistyped_and_stopped_are_typed_again(tmp_path):
    train(with_changes(run__epochs=1), tmp_path, say=quiet)

    def stop(line):
        if line.startswith("epoch 2/2000  loss"):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(with_changes(run__epochs=2000), tmp_path, say=stop)
    assert read_config(tmp_path).run.epochs == 2000
    with pytest.raises(ValueError, match=r"config\.run\.epochs=1: must be >= [23], the epochs trained in workdir="):
        train(with_changes(run__epochs=1), tmp_path, say=quiet)
    lines = []
    assert int(train(with_changes(run__epochs=3), tmp_path, say=lines.append).step) == 12
    assert any(line.startswith("shortened from 2000 to 3 epochs: from here on the schedule") for line in lines)


@pytest.mark.parametrize("refusal", ["memory", "data", "checkpoint"])
def test_a_refused_command_changes_no_file(tmp_path, monkeypatch, trained, refusal):
    workdir = shutil.copytree(trained[0], tmp_path / "run")
    before = contents(workdir)
    config = with_changes(run__epochs=9, data__data_dir="elsewhere")
    error, message = ValueError, "training needs"
    if refusal == "memory":
        monkeypatch.setattr(memory, "available_on_device", lambda: 1000)
    elif refusal == "data":
        monkeypatch.setattr(Description, "check", raising(DataError("other images")))
        error, message = DataError, "other images"
    else:
        monkeypatch.setattr(Checkpoints, "restore", raising(CheckpointError("was altered")))
        error, message = CheckpointError, "was altered"
    with pytest.raises(error, match=message):
        train(config, workdir, say=quiet)
    assert contents(workdir) == before


def test_a_refused_first_command_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available_on_device", lambda: 1000)
    with pytest.raises(ValueError, match="training needs"):
        train(tiny_config(), tmp_path, say=quiet)
    assert contents(tmp_path) == {}


def test_where_nothing_was_trained_another_config_may_begin(tmp_path, trained):
    shutil.copy(trained[0] / "config.json", tmp_path)
    train(with_changes(run__epochs=1, run__seed=5), tmp_path, say=quiet)
    assert read_config(tmp_path).run.seed == 5
    shutil.rmtree(tmp_path / "checkpoints")
    shutil.copy(trained[0] / "config.json", tmp_path)
    shutil.copy(trained[0] / "metrics.jsonl", tmp_path)
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match="records 4 epochs but has no 'last' checkpoint"):
        train(with_changes(run__checkpoint_every=10, data__validation_fraction=0.0), tmp_path, say=quiet)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("has_one", [True, False])
def test_a_checkpoint_is_told_of_only_where_there_is_one(tmp_path, has_one):
    if has_one:
        train(with_changes(run__epochs=1), tmp_path, say=quiet)
    checkpoints, bad = Checkpoints(tmp_path), Metrics.zero()._replace(first_bad_step=3)
    with pytest.raises(training.TrainingDiverged, match="the loss at step 3 .*A smaller config") as raised:
        training._epoch_record(1, bad, checkpoints)
    assert ("; the last checkpoint is kept." in str(raised.value)) == has_one


def test_a_line_of_the_metrics_that_is_no_record_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('3\n{"epoch": 1}\n{"epoch": "x"}\n{"a": 1}\n[]\n{"epoch": 2}\n{"epo', encoding="utf-8")
    keep_metrics(path, 1)
    assert path.read_text(encoding="utf-8") == '{"epoch": 1}\n'


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def raising(error):
    def refuse(*given, **named):
        raise error

    return refuse


def test_paths_are_written_whole(tmp_path, monkeypatch):
    """A later command may be given in another folder."""
    monkeypatch.chdir(tmp_path)
    train(with_changes(run__epochs=1, data__data_dir="data"), tmp_path / "run", say=quiet)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["data_dir"] == str(tmp_path / "data")
    train(with_changes(run__epochs=1, data__data_dir="elsewhere"), tmp_path / "run", say=quiet)
    assert read_config(tmp_path / "run").data.data_dir == str(tmp_path / "elsewhere")


@pytest.mark.parametrize(("free", "compiles"), [(1000, False), (200_000, True)])
def test_more_memory_than_is_free_is_refused_before_it_is_taken(tmp_path, monkeypatch, free, compiles):
    monkeypatch.setattr(memory, "available_on_device", lambda: free)
    monkeypatch.setattr(training, "initial_state", lambda *a: pytest.fail("allocated") if not is_traced() else init(*a))
    lines = []
    with pytest.raises(
        ValueError, match=r"config\.model, config\.run\.batch_size: training needs .* are free; a smaller"
    ):
        train(tiny_config(), tmp_path, say=lines.append)
    assert ("compiling the training step …" in lines) == compiles


init = training.initial_state


def is_traced():
    """Whether arrays are only shapes here."""
    return isinstance(jax.numpy.zeros(()) + 0, jax.core.Tracer)


def test_memory_is_not_checked_where_that_is_said(tmp_path, monkeypatch, trained):
    monkeypatch.setattr(memory, "available_on_device", lambda: 1000)
    state = train(with_changes(run__check_memory=False), tmp_path, say=quiet)
    assert sha256(state) == sha256(trained[1])


def test_the_account_of_memory_grows_as_the_batch_does(tmp_path):
    """The compiler's own, which a sum over layers would only guess."""
    needs = []
    for size in (64, 256):
        lines = []
        train(with_changes(run__batch_size=size, run__epochs=1), tmp_path / str(size), say=lines.append)
        told = next(line for line in lines if line.startswith("memory on each device: "))
        value, unit = told.partition("activations and gradients ")[2].split(";")[0].split()
        needs.append(float(value) * {"kB": 1e3, "MB": 1e6}[unit])
    assert 1.5 * needs[0] < needs[1] < 4 * needs[0]
    assert needs[1] > 256 * 8 * 8 * 4 * 4  # the images alone, as floats


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_step_is_acknowledged_and_ends_the_run(tmp_path, monkeypatch, capfd, number):
    before = signal.getsignal(number)

    def loaded(options, say):
        os.kill(os.getpid(), number)
        np.ones(1000).sum()
        return pytest.fail("went on reading")

    monkeypatch.setattr(training, "loaded", loaded)
    with pytest.raises(Interrupted, match=f"{number.name}; the same command goes on"):
        train(tiny_config(), tmp_path, say=quiet)
    assert f"{number.name}: stopping; Ctrl-C stops without waiting" in capfd.readouterr().err
    assert signal.getsignal(number) is before
