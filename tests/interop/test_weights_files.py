"""Files of weights give the very arrays that were put there, and execute nothing."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from lipjax.interop import files, read_network, read_weights
from lipjax.interop.files import read_file


@pytest.fixture
def state(rng):
    return {"module.a.weight": np.float32(rng.normal(size=(3, 2))), "module.a.bias": rng.normal(size=3)}


def test_npz_gives_the_arrays_by_their_names(state, tmp_path):
    np.savez(tmp_path / "w.npz", **state)
    found = read_weights(tmp_path / "w.npz")
    assert list(found) == ["a.weight", "a.bias"]
    for name, array in found.items():
        assert array.dtype == state[f"module.{name}"].dtype
        np.testing.assert_array_equal(array, state[f"module.{name}"])


def test_safetensors_give_the_arrays(state, tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file(state, tmp_path / "w.safetensors")
    found = read_weights(tmp_path / "w.safetensors")
    assert all(np.array_equal(found[name.removeprefix("module.")], array) for name, array in state.items())
    (tmp_path / "w.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="w.safetensors"):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("old", [False, True])
def test_pth_is_read_as_torch_reads_it(tmp_path, old):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    whole = torch.randn(6, 4)
    saved = {
        "plain": whole,
        "view": whole.T[1:, ::2],
        "same storage": whole[2:],
        "double": torch.randn(3, dtype=torch.float64),
        "half": torch.randn(3).half(),
        "bfloat": torch.randn(3).bfloat16(),
        "whole number": torch.tensor(7),
        "none": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }
    path = tmp_path / "w.pth"
    wrapped = {"backbone": saved, "configs": {"model": {"depth": 3, "act_name": "MinMax"}}, "epoch": 4}
    torch.save(wrapped, path, _use_new_zipfile_serialization=not old)
    found, expected = read_file(path), torch.load(path, weights_only=True)["backbone"]
    assert found.settings == {"depth": 3, "act_name": "MinMax"}
    assert list(found.state) == list(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found.state[name], tensor.detach().to(torch.float64).numpy())
    torch.save(torch.nn.Linear(2, 3).state_dict(), path)
    assert read_weights(path)["weight"].shape == (3, 2)


class _Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch /nowhere",)


class _Sneaky:
    def __reduce__(self):
        return eval, ("1 + 1",)


def _saved(path, entry):
    """As torch.save would."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", pickle.dumps({"a": entry}))


@pytest.mark.parametrize(("entry", "name"), [(_Evil(), "system"), (_Sneaky(), "builtins.eval")])
def test_a_file_that_would_execute_code_is_refused_by_what_it_asks_for(tmp_path, entry, name):
    for path in (tmp_path / "w.pth", tmp_path / "w.pt"):
        _saved(path, entry)
        with pytest.raises(ValueError, match=f"{path}: asks for .*{name}.* could execute code"):
            read_weights(path)
        path.write_bytes(pickle.dumps({"a": entry}))
        with pytest.raises(ValueError, match=f"{path}: asks for .*{name}"):
            read_weights(path)


def test_damaged_files_are_refused_by_name(tmp_path, state):
    whole = io.BytesIO()
    np.savez(whole, **state)
    content = {
        "a.pth": b"PK\x03\x04 cut",
        "b.pth": b"",
        "c.npz": whole.getvalue()[:80],
        "d.npz": b"text",
        "e.pth": pickle.dumps(7),
    }
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=name):
            read_weights(tmp_path / name)
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"objects\.npz"):
        read_weights(tmp_path / "objects.npz")
    with pytest.raises(ValueError, match=r"must be one of \.pth"):
        read_weights(tmp_path / "w.bin")
    with pytest.raises(FileNotFoundError, match=r"gone\.npz"):
        read_weights(tmp_path / "gone.npz")
    with pytest.raises(ValueError, match="like='none': must be one of liresnet"):
        read_network(tmp_path / "objects.npz", "none")


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "w.pth"
    torch.save({"a": torch.arange(4.0)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data[:8] if name.endswith("data/0") else data)
    with pytest.raises(ValueError, match=r"shape \(4,\) in a storage of 2 numbers"):
        read_weights(path)


def test_tensors_of_which_more_is_said_than_their_numbers_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    negated = torch.complex(torch.ones(3), torch.ones(3)).conj().imag  # its numbers are stored with the other sign
    for old in (False, True):
        torch.save({"a": negated}, tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
        with pytest.raises(ValueError, match="more is said than its numbers: {'neg': True}"):
            read_weights(tmp_path / "w.pth")


def test_two_arrays_of_one_name_are_refused(tmp_path):
    np.savez(tmp_path / "w.npz", **{"module.a": np.ones(3), "a": np.zeros(3)})
    with pytest.raises(ValueError, match="two arrays of one name"):
        read_weights(tmp_path / "w.npz")
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("w/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("w/data/0", b"1234")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("w/data/0", b"5678")
    with pytest.raises(ValueError, match="two entries of one name"):
        read_weights(tmp_path / "w.pth")


def test_of_several_state_dicts_none_is_chosen(monkeypatch, tmp_path):
    """Averages of weights lie beside them in some checkpoints."""
    (tmp_path / "w.pth").write_bytes(b"")
    held = {"state_dict": {"a": np.ones(3)}, "model": {"a": np.zeros(3)}, "config": {"model": "text"}}
    monkeypatch.setitem(files._READERS, ".pth", lambda path: held)
    with pytest.raises(ValueError, match="has several state dicts, state_dict, model; keep one of them"):
        read_weights(tmp_path / "w.pth")
    del held["model"]
    np.testing.assert_array_equal(read_weights(tmp_path / "w.pth")["a"], np.ones(3))


def test_a_pickle_changes_nothing_of_what_it_may_call(tmp_path):
    for state in ({"changed": 1}, (None, {"__defaults__": (1, 2)})):
        asked = b"ctorch._utils\n_rebuild_tensor_v2\n" + pickle.dumps(state, protocol=2)[2:-1] + pickle.BUILD
        with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
            archive.writestr("w/data.pkl", b"\x80\x02" + asked + pickle.STOP)
        with pytest.raises(ValueError, match="no attribute"):
            read_weights(tmp_path / "w.pth")
