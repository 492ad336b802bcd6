"""The audit says what is true of a network and of its claims."""

import csv
import json

import liresnet_program as liresnet
import numpy as np
import potential_program as potential
import pytest

from lipjax.commands import certify
from lipjax.data import Dataset
from lipjax.evaluation.attack import Attack
from lipjax.evaluation.audit import audit
from lipjax.evaluation.audit_report import reasons
from lipjax.interop import read_network
from lipjax.system.lock import FolderLock, LockedError


@pytest.fixture(scope="module")
def dataset():
    """Images of noise: 8 for training, 24 for testing, of ten classes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(34, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(34) % 10
    return Dataset.of_arrays("noise", (images[:10], labels[:10]), (images[10:], labels[10:]))


@pytest.fixture(scope="module")
def audited(tmp_path_factory, dataset):
    """A convex potential network that takes its norms a hundredth of what they are."""
    folder = tmp_path_factory.mktemp("audit")
    state = potential.cpl_state(np.random.default_rng(0), norm=0.05, denses=1)
    np.savez(folder / "net.npz", **state)
    said = []
    result = audit(folder / "net.npz", "cpl", dataset, radii="1/255,4/255", say=said.append)
    return folder / "net", result, "\n".join(said), state


def test_a_claim_that_is_false_is_called_so(audited):
    _, result, text, _ = audited
    wrong = [row for row in result["layers"] if row["layer"].startswith(("conv", "dense"))]
    assert len(wrong) == 3
    for row in wrong:
        assert row["claimed"] == 1
        assert row["found"] <= row["proven"]
    assert max(row["found"] for row in wrong) > 10
    assert any("conv0, claimed 1 (by construction): wrong" in sentence for sentence in result["reasons"])
    assert "wrong, a change was found that it enlarges" in text
    assert result["proven"] > 100 * result["claimed"]


def test_the_files_hold_what_is_returned(audited):
    folder, result, _, _ = audited
    certificates = folder / "certificates"
    assert json.loads((certificates / "audit.json").read_text(encoding="utf-8")) == json.loads(json.dumps(result))
    summary = json.loads((certificates / "summary.json").read_text(encoding="utf-8"))
    with (certificates / "audit.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == result["num_examples"] == 24
    for text, radius in {"1/255": 1 / 255, "4/255": 4 / 255}.items():
        ours, theirs = result["accuracy"][text]["proven"], result["accuracy"][text]["claimed"]
        assert ours == summary["certified_accuracy"][text]
        right = [row for row in rows if row["label"] == row["claimed_prediction"]]
        assert theirs == sum(float(row["claimed_radius"]) > radius for row in right) / 24


def test_the_formula_of_the_program_gives_its_radii(audited, dataset):
    folder, _, _, state = audited
    pixels = dataset.test.images / 255
    z = potential.cpl_logits(state, pixels, (0.49139968, 0.48215841, 0.44653091), denses=1)
    rows = potential.unit(state["model.last_last.weight"])
    with (folder / "certificates" / "audit.csv").open(encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    for image, row in zip(z, found, strict=True):
        top = int(np.argmax(image))
        radius = min((image[top] - image[j]) / np.linalg.norm(rows[top] - rows[j]) for j in range(10) if j != top)
        assert int(row["claimed_prediction"]) == top
        assert abs(float(row["claimed_radius"]) - radius) < 1e-3 * max(radius, 1)


def test_an_audit_goes_on_with_the_same_settings_only(tmp_path, dataset, monkeypatch):
    """A mean that was forgotten is in no array: radii of the network without it are none of the network with it."""
    np.savez(tmp_path / "net.npz", **potential.cpl_state(np.random.default_rng(0), norm=0.05, denses=1))
    asked = {"like": "cpl", "dataset": dataset, "radii": "1/255", "batch_size": 8}
    batch = Attack.batch

    def stopped(self, given):
        raise KeyboardInterrupt

    monkeypatch.setattr(Attack, "batch", stopped)
    with pytest.raises(KeyboardInterrupt):
        audit(tmp_path / "net.npz", settings={"mean": 0.0}, attack="fast", **asked)
    monkeypatch.setattr(Attack, "batch", batch)
    lines = []
    audit(tmp_path / "net.npz", say=lines.append, **asked)
    assert not any("going on" in line for line in lines)
    audit(tmp_path / "net.npz", output=tmp_path / "fresh", **asked)
    rows = [(tmp_path / name / "certificates" / "per_image.csv").read_bytes() for name in ("net", "fresh")]
    assert rows[0] == rows[1]


def test_two_audits_do_not_write_to_one_folder(tmp_path, dataset):
    np.savez(tmp_path / "net.npz", **potential.cpl_state(np.random.default_rng(0), norm=0.05, denses=1))
    (tmp_path / "net").mkdir()
    with FolderLock(tmp_path / "net", "auditing.lock", "auditing", print), pytest.raises(LockedError, match="auditing"):
        audit(tmp_path / "net.npz", "cpl", dataset, radii="1/255")


def test_power_iterations_are_those_of_the_program():
    state = liresnet.state(np.random.default_rng(0))
    claim = read_claim(state)
    x = state["stem.0.init_x"]
    for _ in range(500):
        y = liresnet.conv(x, state["stem.0.weight"], None, 2, 2)
        spread = np.zeros((1, y.shape[1], 7, 7))
        spread[:, :, ::2, ::2] = y  # with zeros between, for the adjoint of stride 2
        spread = np.pad(spread, ((0, 0), (0, 0), (0, 1), (0, 1)))
        x = liresnet.conv(spread, state["stem.0.weight"].swapaxes(0, 1)[:, :, ::-1, ::-1], padding=2)
        x = x / np.linalg.norm(x)
    norm = np.linalg.norm(liresnet.conv(x, state["stem.0.weight"], None, 2, 2))
    stem = next(claimed for claimed in claim.layers if claimed.layer == "stem")
    assert stem.how.startswith("estimate: 500 power iterations from the stored vector")
    assert abs(stem.value() - norm) < 1e-5 * norm


def read_claim(state):
    from lipjax.interop import PROGRAMS

    return PROGRAMS["liresnet"]({**state, "neck.weight": state["neck.weight"]}).claim


def test_ties_are_certified_by_those_who_do_not_ask_for_more():
    claim = read_claim(liresnet.state(np.random.default_rng(0)))
    rows = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    label, radius = claim.radii(2.0, np.array([[1.0, 1.0, -1.0], [1.0, 0.0, 0.0]]), rows)
    assert label.tolist() == [0, 0]
    assert np.allclose(radius, [2 / (2 * 2**0.5), 1 / (2 * 2**0.5)])
    assert claim.certified(np.array([0.5]), 0.5).all()
    assert not claim._replace(strict=True).certified(np.array([0.5]), 0.5).any()


def test_sentences_follow_from_numbers():
    row = {"layer": "a", "claimed": 1.0, "proven": 1.0, "found": 0.9, "how": "by construction"}
    accuracy = {"standard": {}, "0.1": {"only_claimed": 0, "only_proven": 0}}
    same = {"layers": [row], "proven": 1.0, "claimed": 1.0, "accuracy": accuracy, "formula": "rows", "ties": 0}
    same["refuted"] = None
    assert reasons(same) == ["The claims are what is proven."]
    open_ = reasons({**same, "layers": [{**row, "proven": 1.125}], "proven": 1.125})
    assert open_[0] == "a, claimed 1 (by construction): proven is 1.125 only, 0.12 more."
    assert "0.12 above the claim" in open_[1]
    assert "3 images whose two largest logits are equal" in reasons({**same, "ties": 3})[0]
    assert "Of 2 images the attack" in reasons({**same, "refuted": 2})[0]


def test_the_command_says_in_a_line_what_is_wrong(tmp_path, capsys):
    np.savez(tmp_path / "net.npz", **liresnet.state(np.random.default_rng(0)))
    given = [f"--weights={tmp_path / 'net.npz'}", "--like=liresnet", "--dataset=digits"]
    for extra, message in {
        "--workdir=/nowhere": "--workdir: is of a training of ours; it cannot go with --weights",
        "--settings=[1]": "settings='[1]': must be a JSON object",
        "--data_dir=.": "its network takes images (8, 8, 3), those of 'digits' are (8, 8, 1)",
    }.items():
        assert certify.main([*given, extra]) == 1
        assert message in capsys.readouterr().err
    assert certify.main(given[:2]) == 1
    assert "dataset is missing: --weights=FILE goes with" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"must be one of liresnet, bronet"):
        read_network(tmp_path / "net.npz", "resnet")
