"""The training recipe as pure functions: optimiser, state, one step (paper, section 7)."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from lipjax.data import augmentation
from lipjax.layers import CurvatureHead
from lipjax.models import Classifier
from lipjax.system.devices import batch_over, mesh_of, split_over, whole_on_each
from lipjax.training.feature_attack import feature_attack
from lipjax.training.losses import curvature_regulariser, top_rivals

LEARNING_RATE_DROP = 0.1

# The axis of the hidden units in the parameters of a curvature head.
HIDDEN_AXIS = {"w1": 0, "b1": 0, "w2": 1}


class TrainState(NamedTuple):
    """All that a step changes; the next state depends on nothing else but data, config and seed."""

    step: jax.Array
    params: Any
    spectral: Any
    opt_state: Any


class Metrics(NamedTuple):
    """Sums over the steps since they were last reset, kept on the device."""

    loss: jax.Array
    correct: jax.Array
    examples: jax.Array
    first_bad_step: jax.Array  # the first step whose loss or parameters were not finite, −1 if none

    @classmethod
    def zero(cls) -> "Metrics":
        """Sums over no step."""
        return cls(jnp.zeros(()), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), jnp.full((), -1, jnp.int32))

    def to_json(self) -> dict[str, float]:
        """The sums as numbers, which `from_json` gives back to the last bit."""
        return {name: value.item() for name, value in self._asdict().items()}

    @classmethod
    def from_json(cls, numbers: Mapping[str, float]) -> "Metrics":
        """What `to_json` gave."""
        return cls(**{name: jnp.asarray(numbers[name], zero.dtype) for name, zero in cls.zero()._asdict().items()})


def make_optimizer(config: ConfigDict, steps_per_epoch: int, model: Classifier) -> optax.GradientTransformation:
    """SGD with momentum: clipping (optional), weight decay on kernels and the LLN weight, ×0.1 at each milestone.

    The paper's optimiser (section 7, and its authors' code for what that leaves open).
    """
    boundaries = {
        round(fraction * config.epochs * steps_per_epoch): LEARNING_RATE_DROP for fraction in config.milestones
    }
    schedule = optax.piecewise_constant_schedule(config.learning_rate, boundaries)
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    return optax.chain(
        clip,
        optax.add_decayed_weights(config.weight_decay, mask=model.decayed),
        optax.sgd(schedule, config.momentum),
    )


def initial_state(model: Classifier, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """Step 0, from the seed alone."""

    @jax.jit
    def init(key):
        image = jnp.zeros((1, *model.shape_of_images()))
        variables = model.init(key, image)
        opt_state = optimizer.init(variables["params"])
        return TrainState(jnp.zeros((), jnp.int32), variables["params"], variables.get("spectral", {}), opt_state)

    return init(jax.random.key(seed))


@functools.partial(jax.jit, static_argnums=(2, 3))
def epoch_order(seed: int, epoch: int, examples: int, batch_size: int) -> jax.Array:
    """(steps, batch_size) indices: a random order of the epoch, its incomplete last batch left out."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), epoch)
    steps = examples // batch_size
    return jax.random.permutation(key, examples)[: steps * batch_size].reshape(steps, batch_size)


def state_sharding(state: TrainState, config: ConfigDict, mesh: Mesh) -> TrainState:
    """Where each array of a state lives: whole on each device, but for the head if `config.shard_head`.

    The hidden units of a curvature head are then split over the devices, with their momenta.
    """

    def place(path, leaf):
        del leaf
        keys = [getattr(key, "key", None) for key in path]
        if config.head == "crc" and config.shard_head and "head" in keys and keys[-1] in HIDDEN_AXIS:
            return split_over(mesh, HIDDEN_AXIS[keys[-1]])
        return whole_on_each(mesh)

    return jax.tree_util.tree_map_with_path(place, state)


def make_train_step(
    model: Classifier,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    pixel_max: int,
    mesh: Mesh | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """One jitted step (state, metrics, images, labels, order) → (state, metrics); the first two are donated.

    images (N, H, W, C) uint8 and labels (N,) are the whole training set on the devices, order (steps, batch_size) the
    indices of an epoch's batches, of which state.step modulo steps is taken: nothing comes from the host.
    All randomness is fold_in(seed, step), so that a resumed run repeats an unbroken one.  On a mesh of several devices
    each computes an equal part of the batch; gradients are summed by the collectives that the compiler inserts, so the
    step is that of one device up to the order of sums.

    Args:
      mesh: of the devices; None: all there are.
    """
    mesh = mesh_of() if mesh is None else mesh

    def train_step(state, metrics, images, labels, order):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 2), state.step)
        batch = order[state.step % len(order)]
        x, y = (batch_over(data[batch], mesh) for data in (images, labels))
        x = batch_over(augment(key, x, config), mesh)
        x = x.astype(jax.tree.leaves(state.params)[0].dtype) / pixel_max

        def loss_function(params):
            variables = {"params": params, "spectral": state.spectral}
            features, updated = model.apply(variables, x, train=True, method="features", mutable=["spectral"])
            spectral = {**state.spectral, **updated.get("spectral", {})}
            loss, logits, spectral = head_loss(model, config, params, spectral, features, y, jax.random.fold_in(key, 2))
            return loss, (logits, spectral)

        (loss, (logits, spectral)), gradient = jax.value_and_grad(loss_function, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        moved = model.projected({"params": optax.apply_updates(state.params, updates), "spectral": spectral})
        params, spectral = moved["params"], moved["spectral"]

        is_bad = ~(jnp.isfinite(loss) & jnp.isfinite(optax.global_norm(params)))
        is_first_bad = is_bad & (metrics.first_bad_step < 0)
        metrics = Metrics(
            metrics.loss + loss * len(y),
            metrics.correct + jnp.sum(jnp.argmax(logits, axis=-1) == y),
            metrics.examples + len(y),
            jnp.where(is_first_bad, state.step, metrics.first_bad_step),
        )
        return TrainState(state.step + 1, params, spectral, opt_state), metrics

    return _jitted(train_step, model, optimizer, config, mesh)


def make_train_steps(
    model: Classifier,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    pixel_max: int,
    mesh: Mesh | None = None,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """`count` steps of `make_train_step` in one program: (state, metrics, images, labels, order, count).

    For steps so short that the dispatch of each by Python counts.  On a CPU a step takes longer in it: XLA's
    convolutions are slow inside loops there.
    """
    mesh = mesh_of() if mesh is None else mesh
    step = make_train_step(model, optimizer, config, pixel_max, mesh)

    def train_steps(state, metrics, images, labels, order, count):
        def body(_, carry):
            return step(*carry, images, labels, order)

        return jax.lax.fori_loop(0, count, body, (state, metrics))

    return _jitted(train_steps, model, optimizer, config, mesh)


def _jitted(function, model, optimizer, config, mesh):
    """(state, metrics, …) → (state, metrics) compiled: both donated, and left where `state_sharding` says."""
    state = jax.eval_shape(lambda: initial_state(model, optimizer, config.seed))
    places = state_sharding(state, config, mesh), whole_on_each(mesh)
    return jax.jit(function, donate_argnums=(0, 1), out_shardings=places)


def head_loss(model, config, params, spectral, features, labels, key):
    """(loss, clean logits, spectral variables with the head's brought up to date).

    LLN: cross entropy.  Curvature head, equation 7: cross entropy at g(x) + δ plus γ times the curvature regulariser.
    δ is held constant, so that the gradient reaches g(x) as if the attack were the identity.  Features (N, D), labels
    (N,); the key is of the noise from which the attack starts.
    """

    def classify(y, **keywords):
        return model.apply({"params": params, "spectral": spectral}, y, method="classify", **keywords)

    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    if not isinstance(model.parts()[1], CurvatureHead):
        logits = classify(features)
        return cross_entropy(logits, labels).mean(), logits, spectral
    logits, updated = classify(features, train=True, mutable=["spectral"])
    spectral = {**spectral, **updated["spectral"]}
    rivals = top_rivals(logits, labels)
    radius = config.attack_radius * model.nominal_bound()
    noise = jax.random.normal(key, features.shape, features.dtype)
    delta = feature_attack(classify, jax.lax.stop_gradient(features), labels, rivals, radius, noise)
    head = params["head"]
    curvature = curvature_regulariser(head["w1"], head["w2"], labels, rivals, spectral["head"]["power_vector"])
    loss = cross_entropy(classify(features + delta), labels).mean() + config.curvature_weight * curvature
    return loss, logits, spectral


def augment(key: jax.Array, images: jax.Array, config: ConfigDict) -> jax.Array:
    """Random crop and flip of a batch as the config says; dtype and shape stay."""
    crop_key, flip_key = jax.random.split(key)
    if config.crop_padding:
        images = augmentation.random_crop(crop_key, images, config.crop_padding)
    if config.flip:
        images = augmentation.random_flip(flip_key, images)
    return images
