"""Machines that refuse: no HOME, another locale, no GPU, x64, a full disk, Ctrl-C.  A line each; nothing is lost."""

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import quiet, tiny_config
from test_scripts import TINY

import lipjax
from lipjax.checkpoint import CheckpointError, Checkpoints, sha256
from lipjax.commands import certify
from lipjax.evaluation.split import certify_run
from lipjax.system import files
from lipjax.training.loop import train
from lipjax.workdir import load_trained

ROOT = Path(__file__).parents[1]


def typed(*command, **variables):
    """A command in an environment of PATH and these variables; the platform is the CPU unless they say otherwise."""
    environment = {"PATH": os.environ["PATH"], "JAX_PLATFORMS": "cpu"} | variables
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
        check=False,
    )


def test_no_home_and_no_utf_8(tmp_path):
    """A bare container: no HOME that exists, the locale C.  Compiled programs are kept, for this test's sake."""
    bare = {"HOME": "/proc/nowhere", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    told = typed("certify.py", f"--workdir={tmp_path / 'none'}", **bare).stderr.splitlines()
    assert len(told) == 2
    assert "lipjax caches nothing: " in told[0]
    assert told[1].endswith("no training has started there")
    bare["JAX_COMPILATION_CACHE_DIR"] = jax.config.jax_compilation_cache_dir
    bare["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    config = (
        (ROOT / "configs" / "digits.py").read_text(encoding="utf-8").replace("return config", "return config  # ≤ …")
    )
    (tmp_path / "mine.py").write_text(config, encoding="utf-8")
    trained = typed("train.py", f"--config={tmp_path / 'mine.py'}", *TINY, f"--workdir={tmp_path / 'run'}", **bare)
    assert trained.returncode == 0, trained.stderr
    assert trained.stderr == ""
    given = ("certify.py", f"--workdir={tmp_path / 'run'}")
    certified = typed(*given, "--num_examples=5", **bare)
    assert certified.returncode == 0, certified.stderr
    assert "matplotlib" not in certified.stderr
    assert "Lipschitz constant ?" in certified.stdout  # … cannot be printed there
    assert "(x − mean) / std" in (tmp_path / "run" / "certificates" / "report.html").read_text(encoding="utf-8")


def test_no_home_and_no_such_user(monkeypatch):
    """A container's user without an entry in /etc/passwd."""
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    files._writeable.cache_clear()
    assert files.cache_folder() is None
    files._writeable.cache_clear()


def test_a_cache_that_cannot_be_written_is_told_once(monkeypatch, caplog, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(3):
        assert files.cache_folder() is None
    assert len(caplog.messages) == 1
    assert re.match("lipjax caches nothing: .*; XDG_CACHE_HOME=DIR names a folder", caplog.messages[0])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_folder() == tmp_path / "lipjax"


@pytest.mark.parametrize("command", [("train.py", "--config=digits", *TINY), ("certify.py", "--workdir=x")])
def test_a_platform_that_is_not_there(command, tmp_path):
    done = typed(*command, JAX_PLATFORMS="cuda", XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 1
    assert re.fullmatch(r"\w+\.py: JAX_PLATFORMS='cuda': no such device can be used here.*'cpu' can.*\n", done.stderr)


@contextlib.contextmanager
def x64():
    """As JAX_ENABLE_X64=1 has it, in all threads."""
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


def test_training_and_certification_are_the_same_under_x64(trained, tmp_path):
    workdir, state = trained
    with x64():
        again = train(tiny_config(), tmp_path, say=quiet)
        assert sha256(again) == sha256(state)
        variables = load_trained(tmp_path).variables
        certify_run(tmp_path, num_examples=40, attack="fast", folder=tmp_path / "x64", say=quiet)
    assert sha256(variables) == sha256(load_trained(workdir).variables)
    certify_run(tmp_path, num_examples=40, attack="fast", folder=tmp_path / "x32", say=quiet)
    for name in ("per_image.csv", "attack.csv"):
        assert (tmp_path / "x64" / name).read_bytes() == (tmp_path / "x32" / name).read_bytes()


@contextlib.contextmanager
def files_of_at_most(size):
    """As a full disk, or a quota: no file may be larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [100, 2000])
def test_a_full_disk_in_the_midst_of_a_checkpoint(trained, tmp_path, capfd, size, monkeypatch):
    """The first write fails, or a later one; the checkpoint before is whole, nothing is left, and the run goes on."""
    save = Checkpoints._save

    def filled(self, kind, kept, state, metadata):
        with files_of_at_most(size) if metadata["step"] > 8 else contextlib.nullcontext():
            save(self, kind, kept, state, metadata)

    with monkeypatch.context() as patch, pytest.raises(CheckpointError) as told:
        patch.setattr(Checkpoints, "_save", filled)
        train(tiny_config(), tmp_path, say=quiet)
    assert re.fullmatch(
        r"checkpoint \S+/12 cannot be written \(.*File too large\); those before it are kept, and the same command "
        "goes on once it can be",
        str(told.value),
    )
    assert capfd.readouterr().err == ""
    assert Checkpoints(tmp_path).metadata("last")["step"] == 8
    assert not list(tmp_path.rglob("*tmp*"))
    assert load_trained(tmp_path).variables["params"]
    assert sha256(train(tiny_config(), tmp_path, say=quiet)) == sha256(trained[1])


def test_nothing_is_left_of_writes_that_go_on_after_the_first_that_failed(trained, tmp_path, monkeypatch):
    """As tensorstore's threads do: they make their folders anew when these were removed."""
    shutil.copytree(trained[0] / "checkpoints", tmp_path / "checkpoints")
    kept = Checkpoints(tmp_path)
    began = tmp_path / "checkpoints/last/99.orbax-checkpoint-tmp/state.orbax-checkpoint-tmp"

    remove, anew = shutil.rmtree, 5 * [began]

    def rmtree(path, **options):
        remove(path, **options)
        if anew:
            anew.pop().mkdir(parents=True)

    def fails(self, step, args):
        began.mkdir(parents=True)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    monkeypatch.setattr("orbax.checkpoint.CheckpointManager.save", fails)
    with pytest.raises(CheckpointError, match="cannot be written .*No space left"):
        kept.save(trained[1]._replace(step=np.int32(99)), 9, None)
    assert not list(tmp_path.rglob("*tmp*"))
    assert kept.metadata("last")["step"] == 16


@pytest.mark.parametrize("size", [200, 3000])
def test_a_full_disk_in_the_midst_of_certificates(trained, tmp_path, capsys, size):
    """Rows of a batch, or a file at the end; the same command goes on with what was written."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    for name in ("config.json", "checkpoints"):
        (workdir / name).symlink_to(trained[0] / name)
    given = [f"--workdir={workdir}", "--num_examples=40", "--batch_size=4"]
    with files_of_at_most(size):
        assert certify.main(given) == 1
    told = capsys.readouterr().err
    assert re.fullmatch(
        r"lipjax-certify: .*: '.*/certificates/\S+'; the same command goes on once there is room\n", told
    )
    assert not list((workdir / "certificates").glob("*.tmp"))
    assert certify.main(given) == 0
    assert "already: " in capsys.readouterr().out or size < 1000
    summary = json.loads((workdir / "certificates" / "summary.json").read_text(encoding="utf-8"))
    assert summary["num_examples"] == 40


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_certification_goes_on(trained, tmp_path, number):
    """Stopped while images are certified: told at once, code 75, and what was done is not done again."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    for name in ("config.json", "checkpoints"):
        (workdir / name).symlink_to(trained[0] / name)
    command = [sys.executable, "certify.py", f"--workdir={workdir}", "--batch_size=1"]
    command += ["--num_examples=60", "--attack=fast"]  # long enough to be met in its midst
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=ROOT, text=True, encoding="utf-8", **pipes)
    partial = workdir / "certificates" / "per_image.partial"
    while process.poll() is None and not (partial.exists() and len(partial.read_bytes().partition(b"\n")[2]) > 500):
        time.sleep(0.01)
    process.send_signal(number)
    _, told = process.communicate(timeout=120)
    assert process.returncode == os.EX_TEMPFAIL, told
    assert told.splitlines() == [
        "",
        f"{number.name}: stopping; Ctrl-C stops without waiting",
        f"certify.py: {number.name}; the same command goes on",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^certified already: \d+ images; going on$", done.stdout, re.MULTILINE), done.stdout


def test_errors_of_writing_have_the_name_of_the_file(tmp_path):
    with pytest.raises(OSError, match="cannot be written: .*No space.*: .*x") as told, files.naming(tmp_path / "x"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert told.value.filename == str(tmp_path / "x")


@pytest.mark.parametrize("polynomial", [lipjax.ops.equiripple(3, 1.5), lipjax.ops.taylor(4)])
def test_variables_without_their_spectral_collection_are_told_by_its_name(polynomial):
    model = lipjax.LipConvnet(init_channels=2, input_size=4, in_channels=1, polynomial=polynomial, head="crc", hidden=4)
    images = np.zeros((1, 4, 4, 1), np.float32)
    variables = model.init(jax.random.key(0), images)
    alone = {"params": variables["params"]}
    calls = [
        lambda: lipjax.prove(model, alone),
        lambda: lipjax.certify(model, alone, images, np.zeros(1, int)),
        lambda: model.apply(alone, images),
        lambda: model.lipschitz_bound(alone),
        lambda: model.settled(alone),
        lambda: lipjax.fold(model, alone),
        lambda: model.apply(alone, images, train=True, mutable=["spectral"]),
    ]
    for call in calls:
        with pytest.raises(
            ValueError, match=r"^variables: SkewOrthogonalConv has no 'spectral' collection, .*'params'"
        ):
            call()
    with pytest.raises(ValueError, match=r"^variables: must have 'params' \(and 'spectral'\), got 'spectral'"):
        lipjax.prove(model, {"spectral": variables["spectral"]})
    with pytest.raises(ValueError, match="^variables: CurvatureHead has no 'spectral' collection"):
        rest = {"params": alone["params"], "spectral": {k: v for k, v in variables["spectral"].items() if k != "head"}}
        model.apply(rest, images, train=True, mutable=["spectral"])


@pytest.mark.parametrize("std", [1e-320, 1e-44, 1e-31, 1e31, -1.0])
def test_a_std_whose_inverse_leaves_the_range_is_refused_where_it_is_given(std):
    with pytest.raises(ValueError, match="^std=.*: must be from 1e-30"):
        lipjax.LipConvnet(input_size=4, in_channels=1, std=std)
    with pytest.raises(ValueError, match="^InputScale: std must be from 1e-30"):
        lipjax.layers.InputScale(std=(1.0, std))
