"""The two commands as a user types them, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TINY = [
    "--config.model.init_channels=2",
    "--config.model.hidden=4",
    "--config.run.epochs=1",
    "--config.model.polynomial=taylor",
    "--config.model.terms=3",
    "--config.model.eval_terms=4",
]


def run(*arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_train_then_certify(tmp_path):
    workdir = tmp_path / "run"
    trained = run("train.py", "--config=configs/digits.py", *TINY, f"--workdir={workdir}")
    assert trained.returncode == 0, trained.stderr
    assert f"python certify.py --workdir={workdir}" in trained.stdout
    assert json.loads((workdir / "config.json").read_text())["run"]["epochs"] == 1
    certified = run("certify.py", f"--workdir={workdir}", "--num_examples=20", "--radii=0.1")
    assert certified.returncode == 0, certified.stderr
    assert "certified accuracy at 0.1" in certified.stdout
    summary = json.loads((workdir / "certificates" / "summary.json").read_text())
    assert summary["num_examples"] == 20
    other = run("train.py", "--config=configs/digits.py", *TINY, "--config.run.seed=1", f"--workdir={workdir}")
    assert other.returncode != 0
    assert "seed: 0 there, 1 now" in other.stderr
    assert "Traceback" not in other.stderr


def test_errors_are_one_line(tmp_path):
    bad = run("train.py", "--config=configs/digits.py", "--config.model.depth=6", f"--workdir={tmp_path / 'run'}")
    assert bad.returncode != 0
    assert "config.model.depth=6: must be a multiple of 5 from 5 to 40" in bad.stderr
    assert "Traceback" not in bad.stderr
    for flags in (["--config=configs/digits.py", "--config.model.depht=5"], ["--config=configs/nope.py"]):
        mistyped = run("train.py", *flags)
        assert mistyped.returncode != 0
        assert mistyped.stderr.startswith("train.py: ")
        assert "Traceback" not in mistyped.stderr
    missing = run("certify.py", f"--workdir={tmp_path / 'nothing'}")
    assert missing.returncode != 0
    assert "no training has started there" in missing.stderr
    assert "Traceback" not in missing.stderr


@pytest.mark.parametrize("name", ["train.py", "certify.py"])
@pytest.mark.parametrize("module", ["jax", "orbax.checkpoint"])
def test_an_interrupt_while_importing_is_one_line(tmp_path, name, module):
    folder = tmp_path.joinpath(*module.split(".")[:1])
    folder.mkdir()
    (folder / "__init__.py").write_text(
        # Python's own handler: where the tests run in the background, their shell has SIGINT ignored.
        "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.raise_signal(signal.SIGINT)\ntime.sleep(60)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    source = f"import runpy, sys; sys.path[0:0] = [{str(tmp_path)!r}]; runpy.run_path({name!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", source], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (75, f"{name}: interrupted; the same command goes on\n")


@pytest.mark.parametrize("part", ["rounding", "32 × 1024: bfloat16", pytest.param("", marks=pytest.mark.slow)])
def test_the_script_for_gpus_works_on_a_cpu(tmp_path, part):
    file = tmp_path / "gpu.json"
    done = run("-m", "benchmarks.gpu", "--smoke", f"--parts={part}", f"--output={file}")
    assert done.returncode == 0, done.stderr
    parts = json.loads(file.read_text())["parts"]
    assert parts
    assert all(part in name for name in parts if not name.startswith("compilation")), parts
    assert not any({"error", "left_out"} & found.keys() for found in parts.values()), parts
    if part != "32 × 1024: bfloat16":
        assert parts["rounding"]["measured"] <= parts["rounding"]["proven"]
    again = run("-m", "benchmarks.gpu", f"--render={file}")
    assert "tiny networks: no measurement" in again.stdout
