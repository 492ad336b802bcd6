"""Certifications that are stopped go on where they were, to the same bytes."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lipjax.data import load
from lipjax.evaluation.measure import Measure, Rows
from lipjax.evaluation.radius import Radius
from lipjax.evaluation.split import certify_run, images_of
from lipjax.models import Proven
from lipjax.workdir import load_trained, read_config

ROOT = Path(__file__).parents[2]
RECORD = 8 * (1 + len(Radius.columns))  # bytes an image
BATCH = 50  # of 360 images; the last one is smaller


@pytest.fixture(scope="module", params=["trained"])
def whole(request, tmp_path_factory):
    """A workdir certified without a break."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(request.getfixturevalue(request.param)[0], workdir)
    certify_run(workdir, say=lambda line: None, batch_size=BATCH)
    return workdir


@pytest.fixture
def workdir(whole, tmp_path):
    """The same workdir, not certified yet."""
    return Path(shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns("certificates")))


def results(workdir):
    folder = workdir / "certificates"
    summary = json.loads((folder / "summary.json").read_text())
    del summary["seconds"]
    return summary, (folder / "per_image.csv").read_bytes(), sorted(path.name for path in folder.iterdir())


def partial_rows(workdir):
    """Of whole batches, each followed by a SHA-256."""
    path = workdir / "certificates" / "per_image.partial"
    return len(path.read_bytes().partition(b"\n")[2]) // (BATCH * RECORD + 32) * BATCH if path.exists() else 0


def stopped_after(monkeypatch, batches, error):
    """Makes `certify_run` fail in the batch after so many."""
    done = []

    def certify(*arguments, **keywords):
        if len(done) == batches:
            raise error
        done.append(None)
        return of_proven(*arguments, **keywords)

    of_proven = Proven.certify
    monkeypatch.setattr(Proven, "certify", certify)


def test_stopped_and_resumed(whole, workdir, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopped_after(patch, 3, KeyboardInterrupt)
        certify_run(workdir, say=lambda line: None, batch_size=BATCH)
    assert partial_rows(workdir) == 3 * BATCH
    assert not (workdir / "certificates" / "per_image.csv").exists()
    lines = []
    with monkeypatch.context() as patch:
        stopped_after(patch, 6, pytest.fail.Exception("batches were certified twice"))
        certify_run(workdir, say=lines.append, batch_size=BATCH)
    assert f"certified already: {3 * BATCH} images; going on" in lines
    assert results(workdir) == results(whole)


def test_earlier_results_stay_until_new_ones_are_whole(workdir, monkeypatch):
    certify_run(workdir, num_examples=50, say=lambda line: None, batch_size=BATCH)
    before = results(workdir)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        append = Rows.append

        def full(self, batch):
            if len(self.found) >= 2 * BATCH:
                raise OSError(28, "No space left on device")
            append(self, batch)

        patch.setattr(Rows, "append", full)
        certify_run(workdir, say=lambda line: None, batch_size=BATCH)
    summary, csv, names = results(workdir)
    assert (summary, csv) == before[:2]
    assert "per_image.partial" in names
    assert partial_rows(workdir) == 2 * BATCH


@pytest.mark.parametrize(
    ("whole", "kills"),
    [("trained", 1), ("trained_crc", 1)]
    + [pytest.param(head, 20, marks=pytest.mark.slow) for head in ("trained", "trained_crc")],
    indirect=["whole"],
)
def test_killed_at_random_moments(whole, workdir, rng, kills):
    """kill −9 once a random number of further rows is on disk, and a random moment later."""
    command = [sys.executable, "certify.py", f"--workdir={workdir}", f"--batch_size={BATCH}"]
    done = 0
    for _ in range(kills):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        target = done + rng.integers(0, 3) * BATCH
        while process.poll() is None and partial_rows(workdir) < target:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.wait()
        if (workdir / "certificates" / "per_image.csv").exists():  # it was faster; the rest begins anew
            shutil.rmtree(workdir / "certificates")
        done = partial_rows(workdir) // BATCH * BATCH
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert results(workdir) == results(whole)


class Two(Measure):
    name, done, columns = "two", "done", {"label": "i8", "radius": "f8"}


def records(count):
    return {"label": np.arange(count) % 3, "radius": np.arange(count) / 7}


@pytest.mark.parametrize(("place", "kept"), [(8, 0), (40, 0), (70, 0), (81, 2), (150, 2)])
def test_batches_that_were_changed_are_dropped(tmp_path, place, kept):
    """A label, a radius, a digest, of either batch."""
    first = Rows(tmp_path, Two(), "KEY", 2)
    for start in (0, 2):
        first.append({name: column[start : start + 2] for name, column in records(4).items()})
    content = bytearray((tmp_path / "two.partial").read_bytes())
    content[len("KEY\n") + place] ^= 1
    (tmp_path / "two.partial").write_bytes(bytes(content))
    np.testing.assert_array_equal(Rows(tmp_path, Two(), "KEY", 2).found, first.found[:kept])


@pytest.mark.parametrize(
    ("key", "cut", "kept"),
    [
        (b"KEY", None, 4),
        (b"KEY", 2 * 80 - 1, 2),  # its digest cut short
        (b"KEY", 80 + 48, 2),
        (b"KEY", 80 + 24, 2),  # half a batch
        (b"KEY", 24, 0),
        (b"KEY", 0, 0),
        (b"OTHER", None, 0),
        (b"", None, 0),
    ],
)
def test_only_whole_batches_of_the_same_key_are_kept(tmp_path, key, cut, kept):
    first = Rows(tmp_path, Two(), "KEY", 2)
    for start in (0, 2):
        first.append({name: column[start : start + 2] for name, column in records(4).items()})
    start, _, data = (tmp_path / "two.partial").read_bytes().partition(b"\n")
    assert start == b"KEY"
    (tmp_path / "two.partial").write_bytes(key + b"\n" + data[:cut])
    rows = Rows(tmp_path, Two(), "KEY", 2)
    np.testing.assert_array_equal(rows.found, first.found[:kept])
    rows.append({name: column[kept : kept + 2] for name, column in records(6).items()})
    assert rows.found["index"].tolist() == list(range(kept + 2))
    np.testing.assert_array_equal(Rows(tmp_path, Two(), "KEY", 2).found, rows.found)
    rows.write()
    rows.remove()
    lines = (tmp_path / "two.csv").read_text().splitlines()
    assert lines[:3] == ["index,label,radius", "0,0,0.0", f"1,1,{1 / 7!r}"]
    assert len(lines) == kept + 3
    assert [p.name for p in tmp_path.iterdir()] == ["two.csv"]


def test_splits(workdir):
    config, digits = read_config(workdir), load("digits")
    training, validation = digits.hold_out(config.data.validation_fraction, config.run.seed)
    for split, part in {"validation": validation, "train": training}.items():
        summary = certify_run(workdir, split=split, say=lambda line: None)
        assert summary["split"] == split
        lines = (workdir / f"certificates_{split}" / "per_image.csv").read_text().splitlines()[1:]
        assert [int(line.split(",")[1]) for line in lines] == part.labels.tolist()
    assert not (workdir / "certificates").exists()


def test_bad_splits(workdir):
    with pytest.raises(ValueError, match=r"split='all': must be one of \('test', 'train', 'validation'\)"):
        certify_run(workdir, split="all")
    with pytest.raises(ValueError, match="batch_size=0: must be at least 1"):
        certify_run(workdir, batch_size=0)
    trained = load_trained(workdir)
    config, dataset = trained.config, trained.dataset()
    config.data.validation_fraction = 0.0
    with pytest.raises(ValueError, match=r"split='validation': has no images; config.data.validation_fraction=0.0"):
        images_of(dataset, "validation", config)
