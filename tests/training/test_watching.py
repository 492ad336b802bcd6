"""What a run shows of itself: network.txt, TensorBoard files, a trace, metrics; and what it keeps off the devices."""

import json
import sys

import jax
import pytest
from conftest import tiny_config
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from lipjax.checkpoint import sha256
from lipjax.system.event_files import EventFiles
from lipjax.training import loop as training
from lipjax.training.loop import train


def scalars(folder):
    """{tag: {step: value}} of the event files, read by their format: length, checksum, message, checksum."""
    found = {}
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            assert int.from_bytes(data[at + 8 : at + 12], "little") == masked_crc32c(data[at : at + 8])
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_files_of_a_watched_run(tmp_path, trained):
    """The same training, with TensorBoard files that hold the records of metrics.jsonl, and a trace of some steps."""
    config, lines = tiny_config(), []
    config.update_from_flattened_dict({"run.tensorboard": True, "run.profile": True})
    seen = []
    state = train(config, tmp_path, say=lines.append, on_record=seen.append)
    assert sha256(state) == sha256(trained[1])
    assert lines[:3] == ["reading digits …", "LipConvnet: 4,168 parameters", "compiling the training step …"]
    assert "memory on each device: parameters 16.7 kB, optimizer 16.7 kB, images 73.6 kB" in lines[3]
    network = (tmp_path / "network.txt").read_text()
    assert "block3_conv0" in network
    assert "float32[1,1,32,32]" in network
    assert "\x1b" not in network
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert seen == records  # each line as it was written
    found = scalars(tmp_path / "tensorboard")
    assert set(found) == set(records[0]) - {"epoch"}
    for record in records:
        for name in found:
            assert found[name][record["epoch"]] == pytest.approx(record[name], rel=1e-6)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_tensorboard_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ValueError, match=r"config\.run\.tensorboard=True: needs pip install 'lipjax\[tensorboard\]'"):
        EventFiles(tmp_path, 0)


def test_the_loop_compiles_before_it_starts_and_moves_nothing(tmp_path, monkeypatch):
    """Each step within the transfer guard that `train` sets; a compiled step cannot be traced again."""
    make, guards = training.compiled_step, []

    def watched(*arguments):
        step = make(*arguments)

        def run(*inputs):
            guards.append(jax.config.jax_transfer_guard_host_to_device)
            return step(*inputs)

        return run

    monkeypatch.setattr(training, "compiled_step", watched)
    config = tiny_config()
    config.update_from_flattened_dict({"run.epochs": 2, "data.validation_fraction": 0.0})
    train(config, tmp_path, say=lambda line: None)
    assert guards == ["disallow"] * (2 * 5)
