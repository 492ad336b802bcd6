"""lipjax-train and lipjax-certify: names of configs, overrides, help, calls in one process, versions, the wheel."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from ml_collections import ConfigDict
from packaging.requirements import Requirement
from test_scripts import TINY

from lipjax.commands import certify, command, configs, train
from lipjax.commands.help import meanings_of
from lipjax.config import Run, default_config
from lipjax.models.architectures import ARCHITECTURES
from lipjax.system import versions
from lipjax.training.recipe import Recipe

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_a_config_is_found_by_name_and_a_file_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {*configs.shipped()} == {
        str(path.relative_to(ROOT / "configs").with_suffix("")) for path in (ROOT / "configs").rglob("*.py")
    }
    assert configs.read("paper/cifar10", {}).model.polynomial == "taylor"
    assert configs.read("digits", {}).model.hidden == 256
    (tmp_path / "digits").write_text(
        "from lipjax.config import default_config\ndef get_config(size='3'):\n"
        "    config = default_config()\n    config.model.hidden = int(size)\n    return config\n",
        encoding="utf-8",
    )
    assert configs.read("digits", {}).model.hidden == 3
    assert configs.read("digits:7", {}).model.hidden == 7
    with pytest.raises(FileNotFoundError, match="config='digit': must be the path of a file, or one of .*digits"):
        configs.read("digit", {})


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("x = 1", r"has no function get_config\(\)"),
        ("def get_config(): return {}['a']", "raised KeyError: 'a'"),
        ("def get_config(:", "raised SyntaxError"),
        ("def get_config(): return 3", r"get_config\(\) must return a config, got 3"),
        ("import no_such_module", "raised ModuleNotFoundError"),
    ],
)
def test_a_bad_config_file_is_told_in_a_line(tmp_path, capsys, text, error):
    path = tmp_path / "mine.py"
    path.write_text(text, encoding="utf-8")
    assert train.main([f"--config={path}"]) == 1
    told = capsys.readouterr().err
    assert re.fullmatch(rf"lipjax-train: config='{path}': .*{error}.*\n", told), told


@pytest.mark.parametrize("section", ["model", "loss", "run", "data", "optimizer"])
@pytest.mark.parametrize("text", ["None", "-1", "True", "1j", "['name']", "x"])
def test_a_section_that_is_none(section, text):
    with pytest.raises(ValueError, match=rf"config\.{section}=.*: must be a section of keys"):
        configs.read("digits", {section: text})


@pytest.mark.parametrize("key", ["hidden", "init_channels", "mean", "std", "pool_vertices"])
@pytest.mark.parametrize("text", ["{}", "b'a'", "1j", "{'a': 1}", "{1}", "[b'a']"])
def test_a_value_that_json_has_not(tmp_path, key, text):
    with pytest.raises(ValueError, match=rf"^config\.model\.{key}.*: must be "):
        train.train(configs.read("digits", {f"model.{key}": text}), tmp_path, say=lambda line: None)


@pytest.mark.parametrize("key", ["init_channels", "mean", "hidden", "pool_vertices", "head", "gradient", "std"])
@pytest.mark.parametrize("text", ["None", "", "nan", "[]", "x", "['x']", "[[1], [2, 3]]"])
def test_a_value_of_the_model_is_refused_by_its_key(key, text):
    if (key, text) == ("mean", "None"):
        return
    with pytest.raises(ValueError, match=rf"^config\.model\.{key}=.*: must be "):
        Recipe.of(configs.read("digits", {f"model.{key}": text})).model((8, 8, 1), 10)


def test_an_integer_beyond_all_floats():
    with pytest.raises(ValueError, match=r"^config\.model\.std='10*': int too large to convert to float"):
        configs.read("digits", {"model.std": "1" + "0" * 400})


def test_overrides():
    given = ["--config.run.epochs=1e3", "--config", "digits", "-config.model.std", "0.5", "--noconfig.data.flip"]
    given += ["--config.data.crop_padding=None", "--config.run.tensorboard", "--workdir=x", "--config.run.radii=0.50"]
    overrides, others = configs.split_overrides(given)
    assert others == ["--config", "digits", "--workdir=x"]
    config = configs.read("digits", overrides)
    assert (config.run.epochs, config.model.std, config.data.flip, config.run.tensorboard) == (1000.0, 0.5, False, True)
    assert config.data.crop_padding is None
    assert config.run.radii == "0.50"  # as it was text before, it is not made a number
    whole = configs.read("digits", {"optimizer.schedule": "{'name': 'drops', 'factor': 0.5}"}).optimizer.schedule
    assert whole.to_dict() == {"name": "drops", "factor": 0.5}
    assert configs.read("digits", {"optimizer.schedule.name": "constant_schedule"}).optimizer.schedule.to_dict() == {
        "name": "constant_schedule"
    }
    with pytest.raises(ValueError, match=r"config\.model\.hidden\.x='3': config\.model\.hidden=256 is no section"):
        configs.read("digits", {"model.hidden.x": "3"})
    with pytest.raises(ValueError, match=r"--noconfig\.data\.flip=1: takes no value"):
        configs.split_overrides(["--noconfig.data.flip=1"])


def test_another_model_does_not_inherit_the_options_of_the_file():
    assert "attack_radius" not in configs.read("digits", {"loss.name": "cross_entropy"}).loss
    assert configs.read("digits", {"loss.attack_radius": "0.25"}).loss.attack_radius == 0.25


def may_be_none():
    """The keys of which the default is None, or that a config sets where None is allowed."""
    whole = {**Recipe.of(default_config()).whole()}
    return [f"{section}.{key}" for section, values in whole.items() for key, value in values.items() if value is None]


def test_none_is_taken_wherever_it_is_allowed():
    keys = may_be_none()
    assert {"data.data_dir", "model.mean", "optimizer.clip_norm", "run.checkpoint_steps"} <= set(keys)
    for name in ("digits", "cifar10", "paper/cifar100_crc"):
        for key in (*keys, "optimizer.schedule"):
            config = configs.read(name, {key: "None"})
            section, name_of_key = key.split(".")
            assert config[section][name_of_key] is None
            Recipe.of(config).model((8, 8, 1), 10)
    overrides = {"data.name": "digits", "run.radii": "None"}  # text before, and None all the same
    assert configs.read("digits", overrides).run.radii is None
    with pytest.raises(ValueError, match=r"config\.model\.std=None: must be a number in"):
        Recipe.of(configs.read("digits", {"model.std": "None"})).model((8, 8, 1), 10)


@pytest.mark.parametrize("main", [train.main, certify.main])
def test_help_is_a_page_of_our_flags_and_of_every_key(main, capsys):
    assert main(["--help"]) == 0
    page = capsys.readouterr().out
    whole = Recipe.of(default_config()).whole()
    for section, values in whole.items():
        assert f"\n{section}:\n" in page
        for key, value in values.items():
            assert f"\n  {key} = {value!r}" in page
    assert "passes over the training images." in page
    assert "--workdir" in page
    assert "absl" not in page
    assert "flagfile" not in page
    assert max(map(len, page.splitlines())) <= 120 or "milestones" in max(page.splitlines(), key=len)


def test_every_key_has_a_meaning():
    whole = Recipe.of(default_config()).whole()
    owners = {"run": Run, "model": ARCHITECTURES["lipconvnet"]}
    for section, owner in owners.items():
        assert not set(whole[section]) - set(meanings_of(owner)) - {"name"}
    assert meanings_of(Run)["epochs"] == "passes over the training images."


def test_help_shows_the_values_of_a_config(capsys):
    assert train.main(["--config=digits", "--config.model.hidden=5", "--help"]) == 0
    page = capsys.readouterr().out
    assert "with the values of digits" in page
    assert "\n  hidden = 5" in page


@pytest.mark.parametrize(
    ("main", "given", "told"),
    [
        (train.main, [], "config is missing: --config=FILE.py, or one of .*cifar10"),
        (train.main, ["--confg=digits"], "Unknown command line flag 'confg'"),
        (train.main, ["--config=digits", "extra"], r"unexpected arguments \['extra'\]; see --help"),
        (
            train.main,
            ["--config=digits", "--config.model.depht=5"],
            r"config\.model\.depht=5: unknown key; allowed",
        ),
        (train.main, ["--config=digits", "--config.run=None"], r"config\.run=None: must be a section of keys"),
        (certify.main, [], "workdir is missing: --workdir=DIR"),
        (certify.main, ["--workdir=x", "--attack=no"], "flag --attack=no: value should be one of <none"),
        (certify.main, ["--workdir=x", "--num_examples=x"], "flag --num_examples=x: invalid literal for int"),
        (
            certify.main,
            ["--workdir=x", "--images=a.png", "--split=test"],
            "--split: is of a whole split; it cannot go with",
        ),
        (certify.main, ["--workdir=x"], "workdir='x' has no config.json: no training has started there"),
    ],
)
def test_mistakes_are_told_in_a_line(main, given, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(given) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.match(rf"lipjax-\w+: {told}", lines[0]), lines


def test_a_traceback_is_kept_for_faults_of_ours():
    def work():
        raise KeyError("ours")

    with pytest.raises(KeyError):
        command.run("x", work)


NOTEBOOK = """
from IPython.terminal.interactiveshell import TerminalInteractiveShell
shell = TerminalInteractiveShell.instance()
for _ in range(2):
    shell.run_line_magic("run", "train.py --config=digits --workdir={workdir} {tiny}")
    shell.run_line_magic("run", "certify.py --workdir={workdir} --num_examples=5")
shell.run_line_magic("run", "certify.py --workdir={workdir} --num_examples=0")
print("alive")
"""


def test_both_scripts_run_twice_in_one_kernel(tmp_path):
    source = NOTEBOOK.format(workdir=tmp_path / "run", tiny=" ".join(TINY))
    environment = os.environ | {"IPYTHONDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done; now: python certify.py --workdir=") == 2
    assert done.stdout.count("images (") == 2
    assert done.stdout.splitlines()[-1] == "alive"
    assert "certify.py: num_examples=0: must be at least 1" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "SystemExit" not in done.stdout + done.stderr


def test_the_wheel_has_all_that_is_needed(tmp_path):
    """Built of a copy, unpacked, and run in an empty folder."""
    pytest.importorskip("setuptools", "77")
    source, empty, site = tmp_path / "source", tmp_path / "empty", tmp_path / "site"
    listed = ["git", "ls-files", "-z", "pyproject.toml", "README.md", "LICENSE", "lipjax", "configs"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")[:-1]:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            (source / name).symlink_to((ROOT / name).readlink())
        else:
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run([*map(str, build)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    shipped = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.py")}
    assert {path.relative_to(site / "lipjax/configs") for path in (site / "lipjax/configs").rglob("*.py")} == shipped
    points = next(site.glob("*.dist-info")) / "entry_points.txt"
    assert "lipjax-train = lipjax.commands.train:main" in points.read_text(encoding="utf-8")
    empty.mkdir()
    for name, given in {
        "train": ["--config=digits", *TINY],
        "certify": ["--workdir=runs/digits", "--num_examples=5"],
    }.items():
        program = f"import sys; from lipjax.commands.{name} import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-c", program, *given],
            cwd=empty,
            env=os.environ | {"PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stderr
    assert (empty / "runs/digits/certificates/report.html").exists()


def test_the_installed_commands():
    scripts = {point.name: point.value for point in metadata.entry_points(group="console_scripts")}
    if "lipjax-train" not in scripts:
        pytest.skip("lipjax is not installed here, or was before it had commands")
    assert PROJECT["scripts"] == {name: scripts[name] for name in PROJECT["scripts"]}


def test_no_dependency_has_an_upper_bound_and_what_make_installs_was_tested():
    for line in PROJECT["dependencies"]:
        assert not {specifier.operator for specifier in Requirement(line).specifier} & {"<", "<=", "==", "~="}, line
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line
    )
    for line in PROJECT["optional-dependencies"]["tested"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pinned[requirement.name]), line


def test_versions_beyond_those_tested_are_told_in_one_line(monkeypatch, caplog):
    lines = ["numpy>=2", 'jax<0.13; extra == "tested"', 'flax<99; extra == "tested"', 'zzz<1; extra == "tested"']
    monkeypatch.setattr(versions.metadata, "requires", lambda name: lines)
    found = {"jax": "0.14.1.dev3", "flax": "0.12.1"}

    def version(name):
        if name not in found:
            raise metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(versions.metadata, "version", version)
    assert versions.untested() == "lipjax was not tested with jax 0.14.1.dev3 (tested: <0.13)"
    versions.warn()
    assert caplog.messages == [versions.untested()]
    assert "jax 0.14.1.dev3 (<0.13 is tested)" in versions.here()
    found["jax"] = "0.12.9"
    assert versions.untested() is None
    monkeypatch.setattr(versions.metadata, "requires", version)
    assert versions.tested() == {}


def test_configs_may_be_plain_dicts(tmp_path):
    path = tmp_path / "plain.py"
    path.write_text("def get_config(): return {'data': {'name': 'digits'}}", encoding="utf-8")
    config = configs.read(str(path), {"model.depth": "10"})
    assert isinstance(config, ConfigDict)
    assert (config.data.name, config.model.depth) == ("digits", 10)
