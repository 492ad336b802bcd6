"""A trained network to a file of another program: written, run there on the test split, compared with ours, kept."""

import importlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from lipjax.certificates.certificate import certified_accuracy
from lipjax.config import parse_radii
from lipjax.evaluation.split import images_of
from lipjax.export.deployed import DTYPES, deployed
from lipjax.models import Proven
from lipjax.ops.arithmetic import in_float64
from lipjax.system import printed
from lipjax.system.devices import in_float32
from lipjax.system.files import atomic_write
from lipjax.workdir import folder_of, load_trained

FORMATS = ("stablehlo", "onnx", "torch", "npz")
TOLERANCE = 1e-5  # of logits, relative to the largest where that is above 1
_BATCH = 500


@in_float32
def export_run(
    workdir: str | os.PathLike,
    to: str,
    output: str | os.PathLike,
    say: Callable[[str], None] = print,
    *,
    dtype: str = "float64",
    data_dir: str | None = None,
    num_examples: int | None = None,
    trust_code: bool = True,
) -> dict[str, Any]:
    """Write the network of a workdir, folded and with the constants of its certificate, to a file of a format.

    Before it is kept the file is loaded and run by its runtime on the test split, its logits are compared with those of
    the program that certifies, and the images are certified with its features, less the rounding that is proven of it.

    Args:
      to: one of FORMATS.
      output: a file that is not there yet.
      dtype: of the file's constants and arithmetic, one of DTYPES.
      num_examples: only the first so many images of the test split; None: all.
      data_dir, trust_code: as of `certify_run`.

    Returns:
      What was measured: logits_differ, and by radius certified_accuracy and certified_accuracy_exported; the metadata.

    Raises:
      ValueError, FileNotFoundError, CheckpointError, DataError: a bad argument, a missing package, an output that is
        there, no training there, a layer that is not proven or has no plain form, logits that differ.
    """
    format_, path = _format(to), Path(output).expanduser()
    _check(path, dtype, num_examples)
    trained = load_trained(folder_of(workdir), data_dir, trust_code)
    say("proving a bound of the Lipschitz constant …")
    proven, network = trained.prove(), deployed(trained, dtype, format_.SUMS_IN_ANY_ORDER)
    say(f"writing {to} …")
    content = format_.written(network)
    dataset = trained.dataset(say=say)
    images, labels = (part[:num_examples] for part in images_of(dataset, "test", trained.config))
    images = images.astype(np.float32) / np.float32(dataset.pixel_max)
    say(f"running it on {len(images)} images …")
    features, logits = _outputs(format_.loaded(content), images, dtype)
    differ, largest = _difference(proven, images, logits)
    if not differ <= TOLERANCE * max(1.0, largest):
        raise ValueError(
            f"{to}: its logits differ from ours by {differ:.2g}, with logits up to {largest:.3g}; nothing is written"
        )
    of_ours = proven.certify(images, labels)
    of_theirs = network.proven.certify_features(features, images, labels)
    radii = parse_radii(trained.config.run.radii)
    found = {"logits_differ": differ, "metadata": network.metadata()}
    for name, certificate in {"certified_accuracy": of_ours, "certified_accuracy_exported": of_theirs}.items():
        found[name] = {text: certified_accuracy(certificate, radius) for text, radius in radii.items()}
    _check_new(path)
    atomic_write(path, content)
    say(_told(found, len(images), to, path, network))
    return found


def _format(to: str) -> Any:
    """The module of a format; ValueError for an unknown one, and for packages that are missing."""
    if to not in FORMATS:
        raise ValueError(f"to={to!r}: must be one of {FORMATS}")
    module = importlib.import_module(f"lipjax.export.{to}")
    missing = [name for name in module.PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"to={to!r}: needs the package {missing[0]}: pip install {' '.join(module.PACKAGES)}")
    return module


def _check(path: Path, dtype: str, num_examples: int | None) -> None:
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}: must be one of {DTYPES}")
    if num_examples is not None and num_examples < 1:
        raise ValueError(f"num_examples={num_examples}: must be at least 1")
    _check_new(path)


def _check_new(path: Path) -> None:
    if path.exists():
        raise ValueError(f"output={str(path)!r}: is there already; name another file")
    if not path.parent.is_dir():
        raise ValueError(f"output={str(path)!r}: there is no folder {str(path.parent)!r}")


def _outputs(run, images: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """(features, logits) of all images, batch by batch."""
    batches = [run(images[start : start + _BATCH].astype(dtype))[:2] for start in range(0, len(images), _BATCH)]
    features, logits = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return features, logits


def _difference(proven: Proven, images: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """(the largest difference of a logit from ours in float64, the largest logit); nan where one is not finite."""
    with in_float64():
        batches = [jnp.asarray(images[s : s + _BATCH], jnp.float64) for s in range(0, len(images), _BATCH)]
        ours = np.concatenate([np.asarray(proven.outputs(batch, jnp.float64)[1]) for batch in batches])
    return float(np.abs(logits.astype(np.float64) - ours).max()), float(np.abs(ours).max())


def _told(found, count: int, to: str, path: Path, network) -> str:
    error = printed.upper(network.error_bound / network.proven.lipschitz_bound, ".2g")
    lines = [
        f"logits of {count} test images differ from ours by {printed.upper(found['logits_differ'], '.2g')} at most",
        f"rounding: E / L = {error} is proven of {network.dtype}, twice of which is subtracted from each radius",
        "certified accuracy at   ours   exported",
    ]
    for text, accuracy in found["certified_accuracy"].items():
        exported = found["certified_accuracy_exported"][text]
        lines.append(f"  {text:>18} {100 * accuracy:8.2f} % {100 * exported:8.2f} %")
    return "\n".join([*lines, f"wrote {path}, {path.stat().st_size / 2**20:.1f} MiB of {to}"])
