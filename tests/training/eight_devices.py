"""Run by test_sharding.py in a process of its own, with eight virtual devices: prints a JSON line of differences."""

import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from conftest import tiny_config

from lipjax.data import load
from lipjax.ops.frequency import grid_conv
from lipjax.system import devices
from lipjax.training.loop import train
from lipjax.training.recipe import Metrics, Recipe, epoch_order, initial_state, make_train_step, state_sharding

CRC = {
    "model.head": "crc",
    "loss.name": "crc",
    "model.hidden": 16,
    "model.pooling": "projection",
    "optimizer.clip_norm": 1.0,
    "loss.attack_radius": 0.2,
}
EMMA = {**CRC, "run.shard_head": True, "loss.name": "emma", "loss.epsilon": 0.2}
del EMMA["loss.attack_radius"]
CASES = {"lln, dataset split": {}, "crc, head split": CRC | {"run.shard_head": True}, "emma, head split": EMMA}


def steps_on(mesh, config, count, dtype):
    """(final state, losses summed up after each step) of so many steps on a mesh."""
    dataset, recipe = load("digits", None), Recipe.of(config)
    model = recipe.model(dataset.image_shape, dataset.num_classes)
    optimizer = recipe.optimizer.transformation(model, count * recipe.run.epochs)
    state = jax.tree.map(
        lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
        initial_state(model, optimizer, recipe.run.seed),
    )
    state = jax.device_put(state, state_sharding(state, model, recipe.run, mesh))
    step = make_train_step(model, optimizer, recipe, dataset.pixel_max, mesh)
    images, labels = (devices.dataset_on_devices(array, mesh) for array in dataset.train)
    order = devices.on_devices(epoch_order(recipe.run.seed, 1, len(dataset.train.labels), recipe.run.batch_size), mesh)
    metrics, losses = devices.on_devices(Metrics.zero(), mesh), []
    for _ in range(count):
        state, metrics = step(state, metrics, images, labels, order)
        losses.append(float(metrics.loss))
    used = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)}
    assert used == {mesh.size}, used
    return state, images, losses


def same_training():
    """{case: the largest difference of a parameter after 20 steps in float64 on one device and on eight}."""
    differences = {}
    for case, changes in CASES.items():
        config = tiny_config()
        config.update_from_flattened_dict(changes | {"run.batch_size": 64})
        devices.REPLICATED_BYTES = 0 if "dataset split" in case else 1 << 30
        with jax.enable_x64(True):
            one, *_ = steps_on(devices.mesh_of(jax.devices()[:1]), config, 20, jnp.float64)
            eight, images, _ = steps_on(devices.mesh_of(), config, 20, jnp.float64)
        assert images.sharding.is_fully_replicated == ("dataset split" not in case)
        if "model.head" in changes:
            split = eight.params["head"]["w1"].sharding
            assert split.is_fully_replicated != ("run.shard_head" in changes), split
        pairs = zip(jax.tree.leaves(one.params), jax.tree.leaves(eight.params), strict=True)
        differences[case] = max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)
    return differences


def same_losses():
    """The largest relative difference of the mean loss at any step of an epoch in float32."""
    config = tiny_config()
    config.update_from_flattened_dict({"run.batch_size": 64})
    curves = [
        steps_on(mesh, config, 1437 // 64, jnp.float32)[2]
        for mesh in (devices.mesh_of(jax.devices()[:1]), devices.mesh_of())
    ]
    one, eight = map(np.asarray, curves)
    return float(np.abs(eight / one - 1).max())


def moved_images():
    """What eight devices, each with images of its own, tell each other of them in a convolution on a grid."""
    mesh, shape, grid = devices.mesh_of(), (16, 8, 8, 4), (10, 10)
    x = jax.device_put(jnp.ones(shape), devices.split_over(mesh))
    matrices = jax.device_put(jnp.ones((60, 4, 4), jnp.complex64), devices.whole_on_each(mesh))
    gradient = jax.grad(lambda x, matrices: (grid_conv(x, matrices, grid) ** 2).sum(), argnums=(0, 1))
    compiled = jax.jit(gradient).lower(x, matrices).compile().as_text()
    assert "all-reduce" in compiled  # of the gradients of the matrices
    return sorted(set(re.findall("all-gather|all-to-all|collective-permute|reduce-scatter", compiled)))


def main(workdir):
    assert jax.device_count() == 8
    lines = []
    train(tiny_config(), Path(workdir), say=lines.append)  # resumes what the test began on one device
    assert any("resuming" in line for line in lines), lines
    messages = []
    for changes in ({"run.batch_size": 60}, CRC | {"model.hidden": 12, "run.shard_head": True}):
        wrong = tiny_config()
        wrong.update_from_flattened_dict(changes)
        try:
            train(wrong, Path(workdir) / "wrong", say=lines.append)
        except ValueError as error:
            messages.append(str(error))
    assert not (Path(workdir) / "wrong").exists()
    found = {"training": same_training(), "losses": same_losses(), "moved": moved_images(), "refused": messages}
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
