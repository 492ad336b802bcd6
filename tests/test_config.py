import json
import runpy
from pathlib import Path

import pytest

from lipjax.config import build_model, check_config, default_config, parse_radii, read_config, write_config
from lipjax.layers.skew_orthogonal_conv import held_polynomial
from lipjax.ops import taylor

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid_and_states_its_command(path):
    names = runpy.run_path(str(path))
    check_config(names["get_config"]())
    assert f"python train.py --config=configs/{path.name}" in names["__doc__"]


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("depth", 12, "a multiple of 5 from 5 to 40"),
        ("init_channels", 7, "an even integer >= 2"),
        ("validation_fraction", 1.0, r"a number in \[0, 1\)"),
        ("learning_rate", float("nan"), "a number in"),
        ("milestones", (0.75, 0.5), "increasing fractions"),
        ("radii", "36/0", "comma-separated positive numbers"),
        ("gradient", "slow", r"one of \('fast', 'exact'"),
        ("std", 0.0, "a positive number"),
        ("polynomial", "exp", r"one of \('equiripple', 'taylor'"),
        ("degree", 1, "an integer from 2 to 10"),
        ("norm", 3.0, r"a number in \[0.5, 2.9\]"),
        ("terms", 1, "an integer from 2 to 30"),
        ("batch_size", 0, "an integer >= 1"),
    ],
)
def test_errors_name_key_value_and_what_is_allowed(key, value, allowed):
    config = default_config()
    config[key] = value
    with pytest.raises(ValueError, match=rf"config\.{key}=.*: must be {allowed}") as error:
        check_config(config)
    assert repr(value) in str(error.value)


def test_unknown_and_missing_keys():
    config = default_config()
    config.lerning_rate = 0.1
    with pytest.raises(ValueError, match=r"config\.lerning_rate=0\.1: unknown key; allowed: .*learning_rate"):
        check_config(config)
    del config.lerning_rate, config.depth
    with pytest.raises(ValueError, match=r"config\.depth: missing"):
        check_config(config)


def test_parse_radii_keeps_the_text():
    assert parse_radii("36/255,0.5, 1") == {"36/255": 36 / 255, "0.5": 0.5, "1": 1.0}
    for bad in ("", "0", "-1", "a", "1/0", "0.5,", "inf"):
        with pytest.raises(ValueError, match="must be a positive number or a fraction"):
            parse_radii(bad)


def test_build_model_takes_every_key():
    config = default_config()
    config.update({"depth": 10, "init_channels": 6, "gradient": "exact", "std": 0.5, "polynomial": "taylor"})
    config.update({"terms": 4, "eval_terms": 9})
    model = build_model(config, (16, 16, 1), 7)
    assert (model.depth, model.init_channels, model.input_size, model.in_channels, model.num_classes) == (
        10,
        6,
        16,
        1,
        7,
    )
    assert (model.polynomial, model.eval_polynomial, model.gradient, model.std) == (taylor(4), taylor(9), "exact", 0.5)
    config.update({"polynomial": "equiripple", "degree": 3, "norm": 1.4})
    model = build_model(config, (16, 16, 1), 7)
    assert (model.polynomial, model.eval_polynomial) == (held_polynomial(3, 1.4), None)
    config.mean = (0.1, 0.2)
    with pytest.raises(ValueError, match=r"config\.mean=.*: 'cifar10' has 1 channels"):
        build_model(config, (16, 16, 1), 7)


def test_config_file_round_trip_and_foreign_workdir(tmp_path):
    config = default_config()
    config.mean = (0.1, 0.2, 0.3)
    write_config(config, tmp_path)
    read = read_config(tmp_path)
    assert build_model(read, (32, 32, 3), 10) == build_model(config, (32, 32, 3), 10)
    config.data_dir = "elsewhere"
    write_config(config, tmp_path)  # the data may have moved
    config.seed, config.epochs = 3, 7
    with pytest.raises(ValueError, match=r"another config \(epochs: 200 there, 7 now, seed: 0 there, 3 now\)"):
        write_config(config, tmp_path)
    assert read_config(tmp_path).seed == 0


def test_damaged_config_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        read_config(tmp_path)
    for text in ("{", "[1]", '{"depth": 5}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config"):
            read_config(tmp_path)
    values = json.loads(json.dumps(default_config().to_dict())) | {"depth": "__import__('os')"}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"config\.depth"):
        read_config(tmp_path)
