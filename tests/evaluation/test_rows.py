"""Certifications that are stopped go on where they were, to the same bytes."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lipjax.data import load
from lipjax.evaluation import rows
from lipjax.evaluation.rows import PartialRows
from lipjax.evaluation.split import Row, certify_run
from lipjax.models import Proven
from lipjax.workdir import read_config

ROOT = Path(__file__).parents[2]
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
    path = workdir / "certificates" / "per_image.partial.csv"
    return path.read_text().count("\n") - 1 if path.exists() else 0


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
        append = PartialRows.append

        def full(self, batch):
            if len(self.rows) >= 2 * BATCH:
                raise OSError(28, "No space left on device")
            append(self, batch)

        patch.setattr(PartialRows, "append", full)
        certify_run(workdir, say=lambda line: None, batch_size=BATCH)
    summary, csv, names = results(workdir)
    assert (summary, csv) == before[:2]
    assert "per_image.partial.csv" in names
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


ROWS = [Row(i, i % 3, i % 3, (i + 1) % 3, i / 7, 1) for i in range(6)]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("KEY\n{0}{1}{2}{3}", 4),
        ("KEY\n{0}{1}{2}", 2),  # half a batch
        ("KEY\n{0}{1}{2}3,0,0,1,0.42", 2),  # a row cut short
        ("KEY\n{0}{1}{2}3,0,0,1\n", 2),
        ("KEY\n{0}{1}{3}{2}", 2),  # out of order
        ("KEY\n{0}nonsense\n{2}{3}", 0),
        ("OTHER\n{0}{1}{2}{3}", 0),
        ("KEY", 0),
        ("", 0),
    ],
)
def test_only_whole_batches_of_the_same_key_are_kept(tmp_path, text, kept):
    path = tmp_path / "rows"
    path.write_text(text.format(*(rows._text([row]) for row in ROWS)))
    partial = PartialRows(path, "KEY", 2, Row)
    assert partial.rows == ROWS[:kept]
    partial.append(ROWS[kept : kept + 2])
    assert PartialRows(path, "KEY", 2, Row).rows == ROWS[: kept + 2]
    partial.write(tmp_path / "all.csv")
    partial.remove()
    assert (tmp_path / "all.csv").read_text().splitlines()[:2] == [
        "index,label,prediction,rival,radius,exact",
        "0,0,0,1,0.0,1",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["all.csv"]


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
    path = workdir / "config.json"
    path.write_text(path.read_text().replace('"validation_fraction": 0.2', '"validation_fraction": 0.0'))
    with pytest.raises(ValueError, match=r"split='validation': has no images; config.data.validation_fraction=0.0"):
        certify_run(workdir, split="validation", say=lambda line: None)
