"""Files that were edited: each is refused, by the name of what was changed, or computed again."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from lipjax.evaluation import split
from lipjax.evaluation.attack import Attack, CertificateViolated
from lipjax.evaluation.radius import Radius
from lipjax.evaluation.split import certify_run
from lipjax.evaluation.verify import NotVerified, verify_run
from lipjax.workdir import load_trained

COUNT = 60


def quiet(line):
    pass


@pytest.fixture(scope="module")
def certified(trained, tmp_path_factory):
    """A copy of the tiny run, certified."""
    workdir = tmp_path_factory.mktemp("tampering") / "run"
    shutil.copytree(trained[0], workdir, ignore=shutil.ignore_patterns("certificates*"))
    certify_run(workdir, num_examples=COUNT, radii="0.1,0.25", say=quiet)
    return workdir


@pytest.fixture
def copied(certified, tmp_path):
    return shutil.copytree(certified, tmp_path / "run")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model", "std", 0.7),
        ("model", "mean", [0.1]),
        ("model", "degree", 5),
        ("model", "norm", 1.4),
        ("model", "pooling", "projection"),
        ("data", "validation_fraction", 0.4),
        ("run", "seed", 7),
        ("model", "std", None),  # removed
    ],
)
def test_a_config_that_was_edited_is_refused_by_its_key(copied, section, key, value):
    config = json.loads((copied / "config.json").read_text())
    if value is None:
        del config[section][key]
    else:
        config[section][key] = value
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"config.json has been changed since .* \(config.{section}.{key}: "):
        load_trained(copied)


def files_of(workdir):
    return [path for path in (workdir / "certificates").rglob("*") if path.is_file()]


def test_a_published_table_is_verified(copied):
    before = {path.name: path.read_bytes() for path in files_of(copied)}
    lines = []
    verify_run(copied, say=lines.append)
    assert lines == [f"verified: {COUNT} images of digits, test split, to the last digit"]
    assert {path.name: path.read_bytes() for path in files_of(copied)} == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("standard_accuracy", 1.0),
        ("certified_accuracy", {"0.1": 1.0, "0.25": 1.0}),
        ("lipschitz_bound", 1.0),
        ("average_certified_radius", 0.9),
        ("params_sha256", "0"),
        ("per_image_sha256", "0"),
    ],
)
def test_a_summary_that_was_edited_is_not_verified(copied, key, value):
    path = copied / "certificates" / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(NotVerified, match="per_image.csv: is not" if key == "per_image_sha256" else f": {key} .*is "):
        verify_run(copied, say=quiet)


def test_whatever_a_summary_claims_is_verified(copied):
    """What the float32 program and an attack give, the chain of proof, and violations that are remembered."""
    arguments = {"num_examples": 20, "radii": "0.1", "say": quiet}
    certify_run(copied, precision="float32", attack="fast", **arguments)
    verify_run(copied, say=quiet)
    path = copied / "certificates" / "summary.json"
    summary = json.loads(path.read_text())
    chain = [summary["chain_of_proof"][0] | {"lipschitz": 1.0}, *summary["chain_of_proof"][1:]]
    for edited in (
        {"float32": summary["float32"] | {"certified_accuracy": {"0.1": 1.0}}},
        {"attack": summary["attack"] | {"detection_factor": 9.0}},
        {"chain_of_proof": chain},
        {"exact_fraction": 0.123},
    ):
        path.write_text(json.dumps(summary | edited))
        with pytest.raises(NotVerified, match=f"summary.json: {next(iter(edited))} "):
            verify_run(copied, say=quiet)


def test_rows_that_were_edited_are_not_verified(copied):
    path = copied / "certificates" / "per_image.csv"
    lines = path.read_text().splitlines()
    lines[1] = ",".join([*lines[1].split(",")[:4], "9.0", "1"])
    path.write_text("\n".join([*lines, ""]))
    with pytest.raises(NotVerified, match="per_image.csv: is not the one that summary.json is of"):
        verify_run(copied, say=quiet)
    summary = json.loads((copied / "certificates" / "summary.json").read_text())
    summary["per_image_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (copied / "certificates" / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(NotVerified, match="image 0: radius is 9.0, found"):
        verify_run(copied, say=quiet)


def test_nothing_to_verify(copied):
    (copied / "certificates" / "summary.json").write_text("[]")
    with pytest.raises(ValueError, match="summary.json is not a summary written by certify.py"):
        verify_run(copied, say=quiet)


def test_a_violation_is_remembered_whatever_is_asked_of_the_network(copied, monkeypatch):
    """Found once, by an attack on radii that are too large; then without one, of more or fewer images, with a slack."""
    batch = Radius.batch

    def too_large(self, given):
        return batch(self, given) | {"radius": 5 * batch(self, given)["radius"] + 1}

    arguments = {"radii": "0.1", "say": quiet}
    monkeypatch.setattr(Radius, "batch", too_large)
    with pytest.raises(CertificateViolated, match="but at distance"):
        certify_run(copied, attack="fast", num_examples=COUNT, **arguments)
    (path,) = (copied / "certificates").glob("violation_*.npz")
    index = int(path.stem.partition("_")[2])
    for asked in ({"attack": "fast"}, {"num_examples": COUNT}, {"num_examples": COUNT + 1}, {"float_slack": 1e-6}):
        with pytest.raises(CertificateViolated, match="found before, and still so: .* certified radius"):
            certify_run(copied, **{"num_examples": COUNT, **asked}, **arguments)
    with np.load(path) as file:
        same = dict(file)
    other = same | {"of": "another network"}  # as an earlier lipjax, which counted itself, may have called this one
    monkeypatch.setattr(split, "program", lambda: ("another",))
    for kept in (same, other):
        np.savez(path, **kept)
        with pytest.raises(CertificateViolated, match="found before, and still so"):
            certify_run(copied, num_examples=COUNT, **arguments)
    if index:
        certify_run(copied, num_examples=index, **arguments)  # it is not among these
        assert path.exists()
    np.savez(path, **other | {"index": COUNT - 1})
    certify_run(copied, num_examples=10, **arguments)  # nor is this one, which was not run again
    assert path.exists()
    np.savez(path, **same)
    monkeypatch.undo()
    for partial in (copied / "certificates").glob("*.partial"):
        partial.unlink()
    summary = certify_run(copied, num_examples=COUNT, **arguments)  # its radius is smaller than that distance
    assert 0 < summary["certified_accuracy"]["0.1"] <= 1
    assert path.exists()
    np.savez(path, **other)
    certify_run(copied, num_examples=COUNT, **arguments)
    assert not path.exists()
    path.write_bytes(b"")
    with pytest.raises(CertificateViolated, match=r"violation_\d+\.npz: a violation that cannot be read"):
        certify_run(copied, num_examples=COUNT, **arguments)


def test_results_of_an_attack_are_of_its_radii(copied, monkeypatch):
    """Interrupted with another slack, so with other radii to attack inside of, it starts anew."""
    asked = {"num_examples": 8, "radii": "0.25", "attack": "fast", "batch_size": 4}
    whole = certify_run(copied, say=quiet, **asked)["attack"]
    batch, done = Attack.batch, []

    def once(self, given):
        if done:
            raise KeyboardInterrupt
        done.append(given)
        return batch(self, given)

    monkeypatch.setattr(Attack, "batch", once)
    with pytest.raises(KeyboardInterrupt):
        certify_run(copied, say=quiet, float_slack=10.0, **asked)
    monkeypatch.undo()
    assert certify_run(copied, say=quiet, **asked)["attack"] == whole
    assert whole["detection_factor"] > 1


def test_the_detection_factor_is_the_least_by_which_radii_would_be_wrong(copied):
    summary = certify_run(copied, num_examples=COUNT, radii="0.5", attack="fast", say=quiet)
    rows, attack = (
        np.genfromtxt(copied / "certificates" / f"{name}.csv", delimiter=",", names=True)
        for name in ("per_image", "attack")
    )
    certified = rows["radius"] > 0
    factors = attack["distance"][certified] / rows["radius"][certified]
    assert summary["attack"]["detection_factor"] == factors.min() > 1
    np.testing.assert_array_equal(attack["factor"][certified], factors)


def test_the_float32_program_is_certified_beside(copied):
    lines = []
    summary = certify_run(copied, num_examples=COUNT, radii="0.1", precision="float32", say=lines.append)
    rows, deployed = (
        np.genfromtxt(copied / "certificates" / f"{name}.csv", delimiter=",", names=True)
        for name in ("per_image", "float32")
    )
    assert (deployed["radius"] <= rows["radius"]).all()
    assert (deployed["error_measured"] <= deployed["error_bound"]).all()
    bound = summary["lipschitz_bound"]
    lost = (rows["radius"] - deployed["radius"]) * bound
    assert (lost[deployed["radius"] > 0] >= 2 * deployed["error_bound"][deployed["radius"] > 0]).all()
    found = summary["float32"]
    assert found["certified_accuracy"]["0.1"] == np.mean(deployed["radius"] > 0.1)
    assert found["error_bound_max"] == deployed["error_bound"].max()
    assert "float32 program, certified at 0.1" in lines[-1]
    assert 0 < summary["rounding"]["error_bound"] < 1e-9
