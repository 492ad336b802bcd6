"""A run's folder: what train.py wrote there, for those who come after."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from lipjax.checkpoint import Checkpoints
from lipjax.config import SECTIONS, Run, build, default_config, defaults
from lipjax.data import DataOptions, Dataset, Description, loaded
from lipjax.models import Classifier, Proven, prove
from lipjax.models.architectures import ARCHITECTURES, build_model, file_of
from lipjax.system.devices import in_float32
from lipjax.system.files import atomic_write

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
LOCK_FILE = "training.lock"

# Keys that a later run in the same workdir may change: where and how it runs, not what is trained.
MAY_CHANGE = {
    *("data.data_dir", "model.remat", "run.distributed", "run.tensorboard", "run.profile", "run.shard_head"),
    *("run.checkpoint_steps", "run.checkpoint_seconds", "run.keep_checkpoints", "run.check_memory"),
}

# Where the keys of the flat configs of lipjax 0.1 are now.
FLAT = {
    "dataset": "data.name",
    **{key: f"data.{key}" for key in ("data_dir", "validation_fraction", "crop_padding", "flip")},
    **{key: f"model.{key}" for key in ("depth", "init_channels", "head", "hidden", "pooling", "pool_vertices")},
    **{key: f"model.{key}" for key in ("activation", "polynomial", "degree", "norm", "terms", "eval_terms")},
    **{key: f"model.{key}" for key in ("gradient", "compute_dtype", "remat", "mean", "std")},
    **{key: f"loss.{key}" for key in ("attack_radius", "curvature_weight")},
    **{key: f"optimizer.{key}" for key in ("learning_rate", "momentum", "weight_decay", "clip_norm")},
    "milestones": "optimizer.schedule.milestones",
    **{key: f"run.{key}" for key in ("epochs", "batch_size", "seed", "radii", "shard_head", "distributed")},
    **{key: f"run.{key}" for key in ("tensorboard", "profile", "eval_every", "checkpoint_every")},
    **{key: f"run.{key}" for key in ("checkpoint_steps", "checkpoint_seconds", "keep_checkpoints")},
}
_WITHOUT_EFFECT = ("steps_per_dispatch",)


def folder_of(workdir: str | os.PathLike) -> Path:
    """The folder that a workdir is, ~ and ~USER written out; ValueError for a URL, and where there is no such home."""
    text = os.fspath(workdir)
    if "://" in text:
        raise ValueError(f"workdir={text!r}: must be a folder of a file system that is mounted, not a URL")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"workdir={text!r}: must be a folder: {error}") from error


def sectioned(config: Mapping[str, Any]) -> ConfigDict:
    """A config in sections, from one that is, or from a flat one of lipjax 0.1.

    Raises:
      ValueError: a key that is no section and was none of 0.1; one that is given twice, flat and in its section.
    """
    given = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    result = default_config()
    for section in SECTIONS:
        values = given.get(section, {})
        if not isinstance(values, Mapping):
            raise ValueError(f"config.{section}={values!r}: must be a section of keys")
        if "name" in values and values["name"] != result[section].get("name"):  # a default is not of another's keys
            result[section] = ConfigDict({"name": values["name"]})
            if section == "optimizer":
                result.optimizer.schedule = default_config().optimizer.schedule
        with result.ignore_type():
            for key, value in values.items():
                result[section][key] = ConfigDict(value) if isinstance(value, Mapping) else value
    for key, value in given.items():
        if key in SECTIONS or key in _WITHOUT_EFFECT:
            continue
        if key not in FLAT:
            raise ValueError(f"config.{key}={value!r}: unknown; allowed: {', '.join(SECTIONS)}, each with keys")
        *sections, last = FLAT[key].split(".")
        there: Any = given
        for section in (*sections, last):
            there = there.get(section) if isinstance(there, Mapping) else None
        if there is not None and (last != "name" or there != result[sections[0]]["name"]):
            raise ValueError(f"config.{key}={value!r}: is config.{FLAT[key]}={there!r} too; give one of them")
        target = result
        for section in sections:
            target = target[section]
        # rank2 was a third way to differentiate the same network.
        target[last] = "exact" if (key, value) == ("gradient", "rank2") else value
    is_of_head = result.loss.name == default_config().loss.name and not FLAT.keys().isdisjoint(given)
    if result.loss.name == "paper" or is_of_head:  # as the loss was then
        if result.model.get("head") == "crc":
            result.loss.name = "crc"
        else:
            result.loss = ConfigDict({"name": "cross_entropy"})
    return result


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'section.key': value} of a config in sections, values as JSON gives them back.

    Raises:
      ValueError: a value that JSON has not, its key named.
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
            continue
        try:
            flat[prefix + key] = json.loads(json.dumps(value))
        except TypeError as error:
            told = value.to_dict() if isinstance(value, ConfigDict) else value
            allowed = "a number, text, True, False, None, or a list of these"
            raise ValueError(f"config.{prefix}{key}={told!r}: must be {allowed}") from error
    return flat


def write_config(whole: Mapping[str, Any], workdir: Path) -> None:
    """Write config.json, and a copy of the file of one's own network; `whole` is a config with every value."""
    file = file_of(whole["model"]["name"])
    if file is not None and file.resolve() != (workdir / file.name).resolve():
        shutil.copyfile(file, workdir / file.name)
    atomic_write(workdir / CONFIG_FILE, json.dumps(whole, indent=2) + "\n")


def check_same(there: Mapping[str, Any], now: Mapping[str, Any], workdir: Path) -> None:
    """Raise ValueError, naming each key that differs with both values, unless both configs are of one training."""
    old, new = flattened(there), flattened(now)
    differing = [key for key in _differing(old, new) if key not in MAY_CHANGE]
    if differing:
        found = ", ".join(f"{key}: {old.get(key)!r} there, {new.get(key)!r} now" for key in differing)
        raise ValueError(f"workdir={str(workdir)!r} holds a run of another config ({found}); choose another workdir")


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys under which two mappings differ, sorted."""
    return [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]


def what_is_trained(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values, by key, that say which network the parameters are of, and which images were held out."""
    flat = flattened(config.to_dict() if isinstance(config, ConfigDict) else config)
    found = {k: v for k, v in flat.items() if k.startswith(("data.", "model.")) and k not in MAY_CHANGE}
    if ".py:" in found["model.name"]:  # the file may lie elsewhere
        found["model.name"] = Path(found["model.name"]).name
    return found | {"run.seed": flat["run.seed"]}


def _check_trained(metadata: Mapping[str, Any], config: Mapping[str, Any], workdir: Path) -> None:
    """Raise ValueError, naming each key with both values, where config.json is not that of the checkpoint."""
    if metadata.get("config") is None:  # of lipjax 0.1
        return
    # Keys that were added later, and that one of the two may lack.
    added = {f"data.{key}": value for key, value in defaults(DataOptions).items()}
    if config["model"]["name"] in ARCHITECTURES:
        own = defaults(ARCHITECTURES[config["model"]["name"]])
        added |= flattened({"model": own})
    added = {key: value for key, value in added.items() if key not in MAY_CHANGE}
    trained, now = added | metadata["config"], added | what_is_trained(config)
    differing = _differing(trained, now)
    if differing:
        found = ", ".join(f"config.{key}: {now.get(key)!r}, trained by {trained.get(key)!r}" for key in differing)
        raise ValueError(f"{workdir / CONFIG_FILE} has been changed since the checkpoint was saved ({found})")


def read_config(workdir: Path) -> ConfigDict:
    """The config of a workdir, in sections.

    Raises:
      FileNotFoundError, ValueError: config.json is missing or damaged.
    """
    path = workdir / CONFIG_FILE
    if not path.exists():
        raise FileNotFoundError(f"workdir={str(workdir)!r} has no {CONFIG_FILE}: no training has started there")
    try:
        return sectioned(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is not a config written by train.py: {error}") from error


def training_of(workdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, an epoch each, as far as they can be read; none where there is no such file."""
    try:
        lines = (workdir / METRICS_FILE).read_text(encoding="utf-8").splitlines()
        return [record for line in lines if isinstance(record := json.loads(line), dict) and "epoch" in record]
    except (OSError, ValueError):
        return []


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network, as `load_trained` gives it: all that its folder holds, and no image.

    Attributes:
      config: with every value of its sections data and run.
      model, variables: for `lipjax.prove` and whatever else takes a network.
      data: of what it was trained on: shape of images, names of classes, …
      epochs: that the training has done so far, of config.run.epochs.
      saved: the variables as they are in the checkpoint, norms not tightened.
    """

    workdir: Path
    config: ConfigDict
    model: Classifier
    variables: Mapping[str, Any]
    data: Description
    epochs: int
    saved: Mapping[str, Any]

    def prove(self, precision: str = "float64", curvature_is_kept: bool = True) -> Proven:
        """The proof of the network, see `lipjax.prove`; costly bounds of a curvature head are kept in the workdir."""
        kept = self.workdir / "checkpoints" / "curvature.npz" if curvature_is_kept else None
        return prove(self.model, self.variables, None, kept, precision)

    def dataset(
        self,
        data_dir: str | os.PathLike | None = None,
        say: Callable[[str], None] = print,
        given: Dataset | None = None,
    ) -> Dataset:
        """The images that the network was trained on, and those of the test split.

        Args:
          data_dir: where they are; None: as in the config.
          given: the dataset that was given to the training from Python.

        Raises:
          ValueError: they are others than in the training, or were given to it from Python and are in no file.
          DataError: they cannot be read.
        """
        if given is not None:
            given = self.data.surrounded(given)
            self.data.check(given)
            return given
        if self.data.given:
            raise ValueError(
                f"workdir={str(self.workdir)!r}: was trained from Python on the dataset {self.data.name!r}, which is in"
                " no file; give it to certify_run(workdir, dataset=…), or single files to certify.py --images"
            )
        options = dict(self.config.data) | ({} if data_dir is None else {"data_dir": os.fspath(data_dir)})
        dataset = self.data.surrounded(loaded(build("data", DataOptions, options), say))
        self.data.check(dataset)
        return dataset


@in_float32
def load_trained(
    workdir: str | os.PathLike, data_dir: str | os.PathLike | None = None, trust_code: bool = True
) -> Trained:
    """The network of a workdir, from its best checkpoint if there is one, else its last.  No image is read.

    Held norms are tightened (`Classifier.tightened`), so that every layer is as good as its proof can have it.

    Reads config.json and the checkpoint only: no Python config is executed and nothing is unpickled.  A config.json
    that says another network, data or held-out images than the checkpoint was trained with is refused.  A network of
    one's own is made by the copy of its file that lies in the workdir, which is executed if its SHA-256 is the recorded
    one.

    Args:
      data_dir: where the data is, for `Trained.dataset`; None: as in the config.  It is read here only for a run of a
        lipjax that did not describe its data in the workdir.
      trust_code: False refuses to execute that file.

    Raises:
      FileNotFoundError, ValueError, CheckpointError, DataError: no training there, a damaged config or checkpoint, a
        file that is not trusted.
    """
    workdir = folder_of(workdir)
    config = read_config(workdir)
    if data_dir is not None:
        config.data.data_dir = os.fspath(data_dir)
    file = file_of(config.model.name)
    if file is not None and not trust_code:
        raise ValueError(
            f"config.model.name={config.model.name!r}: this network is made by Python code, {workdir / file.name}, "
            "which is executed only with --trust_code"
        )
    options = dict(config.model)
    if file is not None:
        options["name"] = f"{workdir / file.name}:{config.model.name.rpartition(':')[2]}"
    checkpoints = Checkpoints(workdir)
    kind = "best" if checkpoints.has("best") else "last"
    metadata = checkpoints.metadata(kind)
    _check_trained(metadata, config, workdir)
    data_options, run = build("data", DataOptions, config.data), build("run", Run, config.run)
    config.update({"data": dataclasses.asdict(data_options), "run": dataclasses.asdict(run)})
    if metadata.get("data"):
        data = Description.from_json(metadata["data"])
    else:
        data = Description.of(loaded(data_options), data_options)
    model = build_model(options, data.image_shape, data.num_classes)
    image = jnp.zeros((1, *data.image_shape))
    template = jax.eval_shape(lambda: dict(model.init(jax.random.key(0), image)))
    variables, _ = checkpoints.restore(kind, template, partial=True)
    epochs = int((checkpoints.metadata("last") if checkpoints.has("last") else metadata)["epoch"])
    return Trained(workdir, config, model, model.tightened(variables), data, epochs, variables)
