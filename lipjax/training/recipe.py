"""The training recipe as pure functions: state, one step (paper, section 7)."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from lipjax.config import Run, build, named
from lipjax.data import DataOptions
from lipjax.data.augmentation import augmented, mixed
from lipjax.layers import CurvatureHead
from lipjax.models import Classifier
from lipjax.models.architectures import build_model, model_options
from lipjax.system.devices import batch_over, mesh_of, split_over, whole_on_each
from lipjax.training.losses import LOSSES, Loss, Moment
from lipjax.training.optimizers import Optimizer

# The axis of the hidden units in the parameters of a curvature head.
HIDDEN_AXIS = {"w1": 0, "b1": 0, "w2": 1}


class Recipe(NamedTuple):
    """A config whose every value has been checked by its owner."""

    data: DataOptions
    model_options: Mapping[str, Any]
    loss: Loss
    optimizer: Optimizer
    run: Run

    @classmethod
    def of(cls, config: ConfigDict) -> "Recipe":
        """From a config in sections; ValueError names config.SECTION.KEY, the value and what is allowed."""
        loss, options = named("loss", config.loss, LOSSES)
        optimizer, data = config.optimizer.to_dict(), build("data", DataOptions, config.data)
        if data.mixup and not loss.mixes:
            raise ValueError(
                f"config.data.mixup={data.mixup!r}: must be 0 with config.loss.name={config.loss.name!r}, "
                "which attacks images of one label"
            )
        return cls(
            data,
            model_options(config.model),
            build("loss", loss, options),
            build("optimizer", Optimizer, optimizer),
            build("run", Run, config.run),
        )

    def whole(self) -> dict[str, Any]:
        """The config with all values, for config.json."""
        name = next(name for name, kind in LOSSES.items() if type(self.loss) is kind)
        return {
            "data": dataclasses.asdict(self.data),
            "model": dict(self.model_options),
            "loss": {"name": name, **dataclasses.asdict(self.loss)},
            "optimizer": dict(self.optimizer.options),
            "run": dataclasses.asdict(self.run),
        }

    def model(self, image_shape: tuple[int, ...], num_classes: int) -> Classifier:
        """The network for images (H, W, C); ValueError where its head cannot carry the loss."""
        model = build_model(self.model_options, image_shape, num_classes)
        self.loss.check_head(model)
        return model


class TrainState(NamedTuple):
    """All that a step changes; the next state depends on nothing else but data and config.

    `beside`: what is trained beside the network, see `Loss.parameters`.
    """

    step: jax.Array
    params: Any
    spectral: Any
    opt_state: Any
    beside: Any = {}  # noqa: RUF012 (a default that nobody changes)

    def trained(self) -> Any:
        """What the optimiser changes: params, with 'loss' for what is beside them."""
        return {**self.params, "loss": self.beside} if self.beside else self.params


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

    def after(self, step: jax.Array, loss: jax.Array, correct: jax.Array, count: int, is_bad: jax.Array) -> "Metrics":
        """With a step more: the mean loss of so many images, how many were right, and whether it is not finite."""
        is_first_bad = is_bad & (self.first_bad_step < 0)
        first = jnp.where(is_first_bad, step, self.first_bad_step)
        return Metrics(self.loss + loss * count, self.correct + correct, self.examples + count, first)

    def to_json(self) -> dict[str, float]:
        """The sums as numbers, which `from_json` gives back to the last bit."""
        return {name: value.item() for name, value in self._asdict().items()}

    @classmethod
    def from_json(cls, numbers: Mapping[str, float]) -> "Metrics":
        """What `to_json` gave."""
        return cls(**{name: jnp.asarray(numbers[name], zero.dtype) for name, zero in cls.zero()._asdict().items()})


def initial_state(
    model: Classifier, optimizer: optax.GradientTransformation, seed: int, loss: Loss | None = None
) -> TrainState:
    """Step 0, from the seed alone; `loss` where it has parameters of its own."""

    @jax.jit
    def init(key):
        image = jnp.zeros((1, *model.shape_of_images()))
        variables = model.init(key, image)
        beside = {} if loss is None else loss.parameters()
        state = TrainState(jnp.zeros((), jnp.int32), variables["params"], variables.get("spectral", {}), (), beside)
        return state._replace(opt_state=optimizer.init(state.trained()))

    return init(jax.random.key(seed))


@functools.partial(jax.jit, static_argnums=(2, 3))
def epoch_order(seed: int, epoch: int, examples: int, batch_size: int) -> jax.Array:
    """(steps, batch_size) indices: a random order of the epoch, its incomplete last batch left out."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), epoch)
    steps = examples // batch_size
    return jax.random.permutation(key, examples)[: steps * batch_size].reshape(steps, batch_size)


def state_sharding(state: TrainState, model: Classifier, run: Run, mesh: Mesh) -> TrainState:
    """Where each array of a state lives: whole on each device, but for the head if `run.shard_head`.

    The hidden units of a curvature head are then split over the devices, with their momenta.
    """

    is_split = run.shard_head and isinstance(model.parts()[1], CurvatureHead)

    def place(path, leaf):
        del leaf
        keys = [getattr(key, "key", None) for key in path]
        if is_split and "head" in keys and keys[-1] in HIDDEN_AXIS:
            return split_over(mesh, HIDDEN_AXIS[keys[-1]])
        return whole_on_each(mesh)

    return jax.tree_util.tree_map_with_path(place, state)


def make_train_step(
    model: Classifier,
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
    pixel_max: int,
    mesh: Mesh | None = None,
    total: int = 1,
) -> jax.stages.Wrapped:
    """One jitted step (state, metrics, images, labels, order) → (state, metrics); the first two are donated.

    images (N, H, W, C) uint8 and labels (N,) are the whole training set on the devices, order (steps, batch_size) the
    indices of an epoch's batches, of which state.step modulo steps is taken: nothing comes from the host.
    All randomness is fold_in(seed, step), so that a resumed run repeats an unbroken one.  On a mesh of several devices
    each computes an equal part of the batch; gradients are summed by the collectives that the compiler inserts, so the
    step is that of one device up to the order of sums.

    Args:
      mesh: of the devices; None: all there are.
      total: the steps of the run, for losses that change in its course.
    """
    mesh = mesh_of() if mesh is None else mesh

    def train_step(state, metrics, images, labels, order):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(recipe.run.seed), 2), state.step)
        batch = order[state.step % len(order)]
        x, y = (batch_over(data[batch], mesh) for data in (images, labels))
        dtype = jax.tree.leaves(state.params)[0].dtype
        x = batch_over(augmented(key, x, recipe.data, pixel_max, dtype, model.shape_of_images()[:2]), mesh)
        x, targets = with_targets(key, x, y, recipe.data)

        def loss_function(trained):
            params = {name: tree for name, tree in trained.items() if name != "loss"} if state.beside else trained
            variables = {"params": params, "spectral": state.spectral}
            features, updated = model.apply(variables, x, train=True, method="features", mutable=["spectral"])
            spectral: Any = {**state.spectral, **updated.get("spectral", {})}
            variables = {"params": params, "spectral": spectral}
            moment = Moment(jnp.minimum(state.step / total, 1), trained["loss"] if state.beside else {})
            total_loss, loss_key = 0.0, jax.random.fold_in(key, 2)
            for goal, weight in targets:
                loss, logits, spectral = recipe.loss(model, variables, features, goal, loss_key, moment)
                total_loss += weight * loss
            return total_loss, (logits, spectral)

        trained = state.trained()
        (loss, (logits, spectral)), gradient = jax.value_and_grad(loss_function, has_aux=True)(trained)
        updates, opt_state = optimizer.update(gradient, state.opt_state, trained)
        params: Any = dict(optax.apply_updates(trained, updates))
        beside = params.pop("loss") if state.beside else state.beside
        moved = model.projected({"params": params, "spectral": spectral})
        params, spectral = dict(moved["params"]), moved["spectral"]

        is_bad = ~(jnp.isfinite(loss) & jnp.isfinite(optax.global_norm((params, beside))))
        metrics = metrics.after(state.step, loss, jnp.sum(jnp.argmax(logits, axis=-1) == y), len(y), is_bad)
        return TrainState(state.step + 1, params, spectral, opt_state, beside), metrics

    state = jax.eval_shape(lambda: initial_state(model, optimizer, recipe.run.seed, recipe.loss))
    places = state_sharding(state, model, recipe.run, mesh), whole_on_each(mesh)
    return jax.jit(train_step, donate_argnums=(0, 1), out_shardings=places)


def with_targets(key: jax.Array, images: jax.Array, labels: jax.Array, options: DataOptions):
    """(images, [(labels, weight), …]): as they are, or each mixed with another, whose label the loss is of in part."""
    if not options.mixup:
        return images, [(labels, 1.0)]
    images, order, part = mixed(jax.random.fold_in(key, 6), images, options.mixup)
    return images, [(labels, part), (labels[order], 1 - part)]
