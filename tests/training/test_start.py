"""A training that begins with the parameters of another network."""

import jax
import numpy as np
import pytest
from conftest import quiet
from flax import traverse_util

from lipjax import released
from lipjax.config import default_config
from lipjax.configs import digits
from lipjax.data import Dataset
from lipjax.ops.skew import operator_norm, skew_kernel
from lipjax.training import start
from lipjax.training.loop import train
from lipjax.training.recipe import Recipe, initial_state
from lipjax.training.start import Source, check_unseen, source_of, started_from
from lipjax.workdir import load_trained, read_config


def state_of(config, classes=10):
    recipe = Recipe.of(config)
    model = recipe.model((8, 8, 1), classes)
    optimizer = recipe.optimizer.transformation(model, 10)
    return model, initial_state(model, optimizer, 3, recipe.loss), optimizer


def flat(tree):
    return {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(dict(tree)).items()}


def test_all_of_a_network_like_it_is_taken():
    lines = []
    model, state, optimizer = state_of(digits.get_config())
    started = started_from(source_of("digits"), model, state, optimizer, lines.append)
    found = released.read("digits").variables
    for kind, now in (("params", started.params), ("spectral", started.spectral)):
        there = flat(found[kind])
        assert flat(now).keys() == there.keys()
        assert all(np.array_equal(leaf, there[path]) for path, leaf in flat(now).items())
    assert int(started.step) == 0
    assert lines == [f"starting from digits: {len(flat(state.params))} arrays of parameters"]


def test_a_lookahead_looks_back_to_what_was_taken():
    config = digits.get_config()
    config.optimizer.lookahead = 5
    model, state, optimizer = state_of(config)
    started = started_from(source_of("digits"), model, state, optimizer, quiet)
    expected = optimizer.init(started.trained())
    jax.tree.map(np.testing.assert_array_equal, started.opt_state, expected)
    of_params = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(started.params)}
    of_state = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(started.opt_state)}
    assert not of_params & of_state  # a step donates no array twice
    there = {leaf.tobytes() for leaf in map(np.asarray, jax.tree.leaves(started.opt_state))}
    assert {leaf.tobytes() for leaf in map(np.asarray, jax.tree.leaves(started.params))} <= there


@pytest.mark.parametrize("change", ["head", "classes"])
def test_another_head_is_begun_from_the_seed_and_said(change):
    config, lines = digits.get_config(), []
    if change == "head":
        config.model.head, config.loss = "lln", {"name": "emma", "epsilon": 0.5}
    model, state, optimizer = state_of(config, classes=10 if change == "head" else 3)
    started = started_from(source_of("digits"), model, state, optimizer, lines.append)
    there, before, now = flat(released.read("digits").variables["params"]), flat(state.params), flat(started.params)
    taken = {path for path in now if path in there and there[path].shape == now[path].shape}
    assert {path for path in now if path[0] != "head"} <= taken != now.keys()
    assert all(np.array_equal(now[path], (there if path in taken else before)[path]) for path in now)
    assert lines[0].endswith(", not all of head")


def test_vectors_follow_the_kernels_where_the_images_are_of_another_size():
    """At 16×16 pixels kernels are taken and images of power iterations are not: norms are those of the kernels."""
    recipe = Recipe.of(digits.get_config())
    model = recipe.model((16, 16, 1), 10)
    optimizer = recipe.optimizer.transformation(model, 10)
    started = started_from(
        source_of("digits"), model, initial_state(model, optimizer, 3, recipe.loss), optimizer, quiet
    )
    assert len(started.spectral) > 4
    for name, vectors in started.spectral.items():
        if "image" in vectors:
            kernel = skew_kernel(started.params[name]["kernel"])
            assert float(operator_norm(kernel, vectors["image"])[0]) == pytest.approx(float(vectors["norm"]), rel=0.05)


def test_a_released_network_and_a_workdir_of_one_name_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.run\.start_from='digits': is a released network and a workdir"):
        source_of("digits")


def test_it_is_trained_on_resumed_and_refused_with_another_start(tmp_path):
    config = digits.get_config()
    config.run.epochs, config.run.start_from, config.optimizer.learning_rate = 1, "digits", 1e-6
    train(config, tmp_path / "one", say=quiet)
    proven = load_trained(tmp_path / "one").prove()
    released_bound = released.card_of("digits")["summary"]["lipschitz_bound"]
    assert proven.lipschitz_bound == pytest.approx(released_bound, rel=1e-3)
    assert read_config(tmp_path / "one").run.start_from == "digits"

    config.run.start_from = str(tmp_path / "one")
    train(config, tmp_path / "two", say=quiet)
    lines = []
    train(config, tmp_path / "two", say=lines.append)
    assert not any("starting from" in line for line in lines)  # it goes on from its own checkpoint
    config.run.start_from = "digits"
    with pytest.raises(ValueError, match="start_from"):
        train(config, tmp_path / "two", say=quiet)


@pytest.mark.parametrize("name", ["", 3, "nowhere"])
def test_what_is_no_start_is_refused(tmp_path, name):
    config = digits.get_config()
    with config.ignore_type():
        config.run.start_from = name
    with pytest.raises(ValueError, match=r"config\.run\.start_from=.*must be"):
        train(config, tmp_path / "run", say=quiet)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_network_that_has_nothing_in_common_is_refused():
    config = default_config()
    config.model = {"name": "lipnext", "width": 32, "depth": 2, "patch": 2}
    config.data.name = "digits"
    model, state, optimizer = state_of(config, classes=3)
    with pytest.raises(ValueError, match="no parameters with names and shapes"):
        started_from(source_of("cifar10-small"), model, state, optimizer, quiet)


def test_a_source_that_cannot_be_read_is_named_as_the_key_of_the_config(tmp_path):
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"^config\.run\.start_from=.*is not a config written by train\.py"):
        source_of(str(tmp_path))


@pytest.mark.parametrize("there", [0.0, 0.25])
@pytest.mark.parametrize("here", [0.0, 0.25])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_image_that_is_held_out_has_been_trained_on(there, here, seed):
    """By the very indices: refused where one that is held out here was not held out there, and nowhere else."""
    config, source = digits.get_config(), source_of("digits")
    source.config["data"]["validation_fraction"], source.config["run"]["seed"] = there, 0
    config.data.validation_fraction, config.run.seed = here, seed
    images = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1)
    numbered = Dataset.of_arrays("numbers", (images, np.arange(40) % 2), (images[:1], np.zeros(1, int)))
    trained_on, held_out = numbered.hold_out(there, 0)[0], numbered.hold_out(here, seed)[1]
    is_seen = bool(set(trained_on.images.ravel()) & set(held_out.images.ravel()))
    recipe, lines = Recipe.of(config), []
    if is_seen:
        with pytest.raises(ValueError, match=r"config\.data\.validation_fraction=0\.25: with config\.run\.seed"):
            check_unseen(source, recipe, source.training_sha256, lines.append)
    else:
        check_unseen(source, recipe, source.training_sha256, lines.append)
    assert not lines


_UNKNOWN = "that are not known to be these: test and held-out images may have been trained on"


def told(name, recipe, sha="another"):
    lines = []
    check_unseen(source_of(name) if isinstance(name, str) else name, recipe, sha, lines.append)
    return lines


def test_of_other_training_images_nothing_is_known_and_it_is_said():
    assert told("digits", Recipe.of(digits.get_config())) == [f"digits was trained on images of 'digits' {_UNKNOWN}"]


@pytest.mark.parametrize("fraction", [0.0, 0.1])
def test_an_unpacked_network_is_asked_as_the_released_one(tmp_path, fraction):
    """Its folder does not say which images it has learned from: it is refused as the other is, or it is said."""
    config, sha = digits.get_config(), source_of("digits").training_sha256
    config.data.validation_fraction = fraction
    for name in ("digits", str(released.unpack("digits", tmp_path / "run"))):
        if fraction:
            with pytest.raises(
                ValueError, match=r"config\.data\.validation_fraction=0\.1: .* may have been trained on"
            ):
                told(name, Recipe.of(config), sha)
        else:
            assert told(name, Recipe.of(config), sha) == (
                [] if name == "digits" else [f"{name} was trained on images of 'digits' {_UNKNOWN}"]
            )


def of_folder(name, place, start=None, **data):
    config = digits.get_config()
    config.data.name, config.data.data_dir, config.run.start_from = "folder", place, start
    config.data.update(data)
    recipe = Recipe.of(config)
    return Source(name, {}, recipe.whole(), f"{place} {recipe.data.test_fraction}"), recipe


def test_a_folder_is_split_as_it_was_or_is_another_folder():
    source, _ = of_folder("a", "/pictures")
    for place, fraction, refused in (("/pictures", 0.5, True), ("/others", 0.5, False), ("/pictures", 0.2, False)):
        there, recipe = of_folder("b", place, test_fraction=fraction)
        if refused:
            with pytest.raises(
                ValueError, match=r"config\.data\.test_fraction=0\.5: is 0\.2 of 'a', config\.run\.start_from"
            ):
                told(source, recipe, there.training_sha256)
        else:
            assert len(told(source, recipe, there.training_sha256)) == (place == "/others")


def test_what_a_start_began_with_is_asked_too(monkeypatch):
    a, _ = of_folder("a", "/pictures")
    b, _ = of_folder("b", "/others", start="a")
    c, recipe = of_folder("c", "/pictures", start="b", test_fraction=0.5)
    d, _ = of_folder("d", "/pictures", start="gone", test_fraction=0.5)
    e, _ = of_folder("e", "/pictures", start="e", test_fraction=0.5)

    def found(name):
        if name == "gone":
            raise ValueError("must be a workdir")
        return {"a": a, "b": b}[name]

    monkeypatch.setattr(start, "source_of", found)
    for source in (b, c):
        with pytest.raises(ValueError, match=r"config\.data\.test_fraction=0\.5: is 0\.2 of 'a'"):
            told(source, recipe, c.training_sha256)
    assert told(d, recipe, c.training_sha256) == [
        "d began with gone, which is not there: test and held-out images may have been trained on"
    ]
    assert told(e, recipe, c.training_sha256) == []


def test_training_refuses_a_start_that_has_seen_what_is_held_out(tmp_path):
    config = digits.get_config()
    config.run.start_from, config.data.validation_fraction = "digits", 0.1
    with pytest.raises(ValueError, match="config.run.start_from, may have been trained on; it has 0.0 and 0"):
        train(config, tmp_path / "run", say=quiet)
    assert not (tmp_path / "run" / "checkpoints").exists()
