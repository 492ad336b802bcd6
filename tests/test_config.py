"""The configuration: sections and their owners, errors, flat configs of lipjax 0.1, config.json."""

import json
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

import lipjax
from lipjax.config import default_config, parse_radii
from lipjax.layers.skew_orthogonal_conv import held_polynomial
from lipjax.models.architectures import build_model
from lipjax.ops import taylor
from lipjax.training.optimizers import Optimizer
from lipjax.training.recipe import Recipe
from lipjax.workdir import check_same, flattened, read_config, sectioned, write_config

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))


def config_of(**changes):
    config = default_config()
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_config_is_valid_and_states_its_command(path):
    names = runpy.run_path(str(path))
    Recipe.of(names["get_config"]()).model((32, 32, 3) if "digits" not in path.stem else (8, 8, 1), 10)
    assert f"python train.py --config={path.relative_to(ROOT).as_posix()}" in names["__doc__"]


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("model.depth", 12, "a multiple of 5 from 5 to 40"),
        ("model.init_channels", 7, "an even number >= 2"),
        ("model.gradient", "slow", r"one of \('fast', 'exact'"),
        ("model.std", 0.0, r"a number in \[1e-30, 1e\+30\]"),
        ("model.polynomial", "exp", r"one of \('equiripple', 'taylor'"),
        ("model.degree", 1, "an integer from 2 to 10"),
        ("model.norm", 3.0, r"a number in \[0.5, 2.9\]"),
        ("model.terms", 1, "an integer from 2 to 30"),
        ("model.mean", (0.1, 0.2), "a number or 3 numbers, one per input channel"),
        ("data.validation_fraction", 1.0, r"a number in \[0, 1\)"),
        ("data.flip", 1, "True or False"),
        ("data.color", 1.5, r"a number in \[0, 1\]"),
        ("data.affine", -0.1, r"a number in \[0, 1\]"),
        ("data.cutout", 0.5, "an integer >= 0"),
        ("data.mixup", -1.0, "a number >= 0"),
        ("model.patch", 3, "a power of two <= 8"),
        ("model.patch", 16, "a power of two <= 8"),
        ("loss.trainable_scale", -1.0, "True or False"),
        ("optimizer.learning_rate", float("nan"), "a number >= 0"),
        ("optimizer.name", "sdg", "an optimiser of optax"),
        ("optimizer.schedule.milestones", (0.75, 0.5), "increasing fractions"),
        ("optimizer.schedule.factor", 0.0, "a positive number"),
        ("run.radii", "36/0", "a positive number or a fraction"),
        ("run.batch_size", 0, "an integer >= 1"),
        ("run.checkpoint_steps", 0, "an integer >= 1, or None"),
    ],
)
def test_errors_name_key_value_and_what_is_allowed(key, value, allowed):
    config = default_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=rf"^config\.{key}=.*must be {allowed}") as error:
        Recipe.of(config).model((32, 32, 3), 10)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"run__epoch": 3}, r"config\.run\.epoch=3: unknown key; allowed: epochs, batch_size"),
        ({"data__dataset": "digits"}, r"config\.data\.dataset='digits': unknown key; allowed: name, data_dir"),
        ({"model__dept": 3}, r"config\.model\.dept=3: unknown key; allowed: depth, init_channels"),
        ({"loss__gamma": 3}, r"config\.loss\.gamma=3: unknown key; allowed: trainable_scale"),
        ({"loss__name": "hinge"}, r"config\.loss\.name='hinge': must be one of \('cross_entropy', 'offset', 'emma'"),
        (
            {"model__name": "resnet"},
            r"config\.model\.name='resnet': must be one of \('lipconvnet', .*\), or FILE",
        ),
        ({"optimizer__nesterof": True}, r"config\.optimizer\.nesterof=True: unknown key of sgd; .*nesterov"),
        ({"optimizer__mask": True}, r"config\.optimizer\.mask=True: unknown key of sgd"),
        ({"optimizer__schedule__name": "global_norm"}, r"config\.optimizer\.schedule\.name='global_norm': must be"),
        ({"optimizer__schedule__alpha": 1}, r"config\.optimizer\.schedule\.alpha=1: unknown key of drops"),
    ],
)
def test_unknown_names_and_keys(changes, text):
    with pytest.raises(ValueError, match=text):
        recipe = Recipe.of(config_of(**changes))
        recipe.model((32, 32, 3), 10)


def test_parse_radii_keeps_the_text():
    assert parse_radii("36/255,0.5, 1") == {"36/255": 36 / 255, "0.5": 0.5, "1": 1.0}
    assert parse_radii(0.5) == parse_radii("0.5") == {"0.5": 0.5}  # as a flag gives it
    assert parse_radii((0.25, 0.5)) == {"0.25": 0.25, "0.5": 0.5}
    for bad in ("", "0", "-1", "a", "1/0", "0.5,", "inf"):
        with pytest.raises(ValueError, match="must be a positive number or a fraction"):
            parse_radii(bad)


def test_the_model_takes_every_key():
    config = config_of(model__depth=10, model__init_channels=6, model__gradient="exact", model__std=0.5)
    config.update_from_flattened_dict({"model.polynomial": "taylor", "model.terms": 4, "model.eval_terms": 9})
    model = build_model(config.model, (16, 16, 1), 7)
    found = (model.depth, model.init_channels, model.input_size, model.in_channels, model.num_classes)
    assert found == (10, 6, 16, 1, 7)
    assert (model.polynomial, model.eval_polynomial, model.gradient, model.std) == (taylor(4), taylor(9), "exact", 0.5)
    config.update_from_flattened_dict({"model.polynomial": "equiripple", "model.degree": 3, "model.norm": 1.4})
    model = build_model(config.model, (16, 16, 1), 7)
    assert (model.polynomial, model.eval_polynomial) == (held_polynomial(3, 1.4), None)


# A config file of lipjax 0.1, and the same in sections.
FLAT_CONFIG = {"dataset": "digits", "depth": 10, "head": "crc", "mean": (0.3,), "attack_radius": 0.5, "momentum": 0.8}
FLAT_CONFIG |= {"milestones": (0.25, 0.5), "epochs": 3, "radii": "0.5", "gradient": "rank2", "steps_per_dispatch": 4}
SECTIONS = {"data.name": "digits", "model.depth": 10, "model.head": "crc", "model.mean": (0.3,), "run.radii": "0.5"}
SECTIONS |= {"optimizer.schedule.milestones": (0.25, 0.5), "run.epochs": 3, "model.gradient": "exact"}
SECTIONS |= {"loss.name": "crc", "loss.attack_radius": 0.5, "optimizer.momentum": 0.8}


def test_flat_configs_of_earlier_versions_are_read():
    flat, new = default_config(), default_config()
    flat.update(FLAT_CONFIG)
    new.update_from_flattened_dict(SECTIONS)
    for given in (flat, FLAT_CONFIG, new):
        assert Recipe.of(sectioned(given)).whole() == Recipe.of(new).whole()
    with pytest.raises(ValueError, match=r"config\.lerning_rate=0\.1: unknown; allowed: data, model, loss, optimizer"):
        sectioned({"lerning_rate": 0.1})
    with pytest.raises(ValueError, match=r"config\.depth=10: is config\.model\.depth=5 too; give one of them"):
        sectioned({"depth": 10, "model": {"depth": 5}})
    with pytest.raises(ValueError, match=r"config\.model=3: must be a section of keys"):
        sectioned({"model": 3})


def test_the_loss_that_was_that_of_the_head_is_read():
    """Until there were losses by name, 'paper' was cross entropy, or equation 7 for a curvature head."""
    keys = {"name": "paper", "attack_radius": 0.3, "curvature_weight": 0.2}
    crc = Recipe.of(sectioned({"model": {"name": "lipconvnet", "head": "crc"}, "loss": keys}))
    assert crc.whole()["loss"] == {**keys, "name": "crc"}
    lln = Recipe.of(sectioned({"model": {"name": "lipconvnet"}, "loss": keys}))
    assert lln.whole()["loss"] == {"name": "cross_entropy", "trainable_scale": False}
    for head in ("crc", "lln"):  # one that was chosen stays, whatever else is as flat as in lipjax 0.1
        chosen = sectioned({"depth": 10, "head": head, "loss": {"name": "emma", "epsilon": 0.3}})
        assert (chosen.loss.name, chosen.loss.epsilon, chosen.model.head) == ("emma", 0.3, head)


def test_config_file_round_trip_and_foreign_workdir(tmp_path):
    config = config_of(model__mean=(0.1, 0.2, 0.3))
    whole = Recipe.of(config).whole()
    write_config(whole, tmp_path)
    read = Recipe.of(read_config(tmp_path))
    assert flattened(read.whole()) == flattened(whole)
    assert read.model((32, 32, 3), 10) == Recipe.of(config).model((32, 32, 3), 10)
    config.data.data_dir = "elsewhere"
    check_same(read.whole(), Recipe.of(config).whole(), tmp_path)  # the data may have moved
    config.update_from_flattened_dict({"run.seed": 3, "run.epochs": 7})
    with pytest.raises(ValueError, match=r"another config \(run.epochs: 200 there, 7 now, run.seed: 0 there, 3 now\)"):
        check_same(read.whole(), Recipe.of(config).whole(), tmp_path)


def test_damaged_config_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        read_config(tmp_path)
    for text in ("{", "[1]", '{"depth": 5, "model": 1}', '{"deep": 5}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config"):
            read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"depth": "__import__('os')"}))
    with pytest.raises(ValueError, match=r"config\.model\.depth"):
        Recipe.of(read_config(tmp_path)).model((32, 32, 3), 10)


MODEL = lipjax.LipConvnet(init_channels=2, input_size=4, in_channels=1)


def updates(optimizer, steps=10, gradient=1.0):
    """(params, the updates of each step) for equal gradients."""
    params = jax.tree.map(jnp.ones_like, MODEL.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))["params"])
    transformation = optimizer.transformation(MODEL, steps)
    state, found = transformation.init(params), []
    for _ in range(steps):
        update, state = transformation.update(jax.tree.map(lambda p: gradient * p, params), state, params)
        found.append(update)
    return params, found


def test_the_default_is_sgd_with_the_paper_s_drops():
    assert Optimizer().options["momentum"] == 0.9
    params, found = updates(Optimizer(momentum=0.0, weight_decay=0.5))
    rates = [-float(update["stem"]["bias"][0]) for update in found]
    np.testing.assert_allclose(rates, [0.1] * 5 + [0.01] * 3 + [0.001] * 2, rtol=1e-5)
    np.testing.assert_allclose(found[0]["stem"]["kernel"], -0.15, rtol=1e-6)  # decayed too
    assert jax.tree.structure(params) == jax.tree.structure(found[0])


def test_optimisers_and_schedules_of_optax_by_name():
    schedule = {"name": "warmup_cosine_decay_schedule", "warmup_steps": 0.2, "end_value": 0.01}
    _, found = updates(Optimizer("sgd", momentum=0.0, weight_decay=0.0, learning_rate=0.5, schedule=schedule))
    expected = optax.warmup_cosine_decay_schedule(0.0, 0.5, 2, 10, 0.01)
    rates = [-float(update["stem"]["bias"][0]) for update in found]
    np.testing.assert_allclose(rates, [float(expected(step)) for step in range(10)], rtol=1e-6)

    constant = {"name": "constant_schedule"}
    params, found = updates(Optimizer("adamw", learning_rate=0.5, weight_decay=0.25, b1=0.5, schedule=constant))
    theirs = optax.adamw(0.5, b1=0.5, weight_decay=0.25, mask=MODEL.decayed)
    expected, _ = theirs.update(params, theirs.init(params), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found[0], expected)
    assert float(found[0]["stem"]["kernel"][0, 0, 0, 0]) < float(found[0]["stem"]["bias"][0])  # the bias does not decay

    for name in ("cosine_decay_schedule", "linear_schedule", "warmup_constant_schedule", "exponential_decay"):
        own = {"warmup_steps": 1} if "warmup" in name else {"decay_rate": 0.5} if "exponential" in name else {}
        updates(Optimizer("lion", schedule={"name": name, **own}), steps=2)
    with pytest.raises(ValueError, match=r"schedule\.warmup_steps: missing; warmup_constant_schedule needs it"):
        Optimizer(schedule={"name": "warmup_constant_schedule"})


def test_another_name_does_not_inherit_the_keys_of_the_default():
    whole = Recipe.of(sectioned(ConfigDict({"optimizer": {"name": "adamw", "b2": 0.95}}))).whole()
    assert "momentum" not in whole["optimizer"]
    assert whole["optimizer"]["schedule"]["name"] == "drops"


@pytest.mark.parametrize(
    ("schedule", "steps", "told"),
    [
        (
            {"name": "drops"},
            1,
            r"milestones=\(0\.5, 0\.75\): must fall on different .* within the 1 of .* got \[0, 1\]",
        ),
        ({"name": "drops"}, 2, r"milestones=.*got \[1, 2\]"),
        ({"name": "drops", "milestones": (0.5, 0.51)}, 20, r"milestones=.*got \[10, 10\]"),
        (
            {"name": "warmup_cosine_decay_schedule", "warmup_steps": 50},
            40,
            r"warmup_steps=50: .* below the 40 of the run",
        ),
        (
            {"name": "warmup_cosine_decay_schedule", "warmup_steps": 0.9},
            1,
            r"warmup_steps=0\.9: .* below the 1 of the run",
        ),
        ({"name": "linear_schedule", "transition_begin": 40, "end_value": 0.0}, 40, r"transition_begin=40: must"),
        ({"name": "cosine_decay_schedule", "decay_steps": 0.1}, 1, r"\{.*\}: .*positive .*a run of 1 steps"),
    ],
)
def test_a_schedule_that_a_run_is_too_short_for_is_told_by_its_key(schedule, steps, told):
    optimizer = Optimizer(schedule=schedule)  # of its own nothing is wrong with it
    with pytest.raises(ValueError, match=rf"^config\.optimizer\.schedule\.?=?{told}"):
        optimizer.transformation(MODEL, steps)
    optimizer.transformation(MODEL, 1000)


def test_a_warm_up_longer_than_a_hundred_steps_is_no_mistake():
    schedule = {"name": "warmup_cosine_decay_schedule", "warmup_steps": 500}
    Optimizer(schedule=schedule).transformation(MODEL, 10_000)
    with pytest.raises(ValueError, match=r"^schedule\.warmup_steps=-1: must be a fraction, or a whole number"):
        Optimizer(schedule=schedule | {"warmup_steps": -1})
    with pytest.raises(ValueError, match=r"^schedule\.warmup_steps='x': must be a fraction, or a whole number"):
        Optimizer(schedule=schedule | {"warmup_steps": "x"})
