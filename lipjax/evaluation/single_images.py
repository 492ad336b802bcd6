"""Certificates of single pictures from files, by a trained network."""

import glob
import os
import sys
from collections.abc import Callable
from pathlib import Path

from lipjax.data import DataError
from lipjax.data.folder import images_of
from lipjax.evaluation.asked import Asked
from lipjax.models.program import BATCH_SIZE
from lipjax.system import printed
from lipjax.workdir import load_trained


def _on_stderr(line: str) -> None:
    print(line, file=sys.stderr)  # standard output has the lines of the pictures alone


def certify_files(
    workdir: Path,
    images: str,
    say: Callable[[str], None] = print,
    tell: Callable[[str], None] = _on_stderr,
    batch_size: int = BATCH_SIZE,
    float_slack: float = 0.0,
    trust_code: bool = True,
    precision: str = "float64",
) -> None:
    """A line for each picture: its file, its class, the certified radius of that prediction, the runner-up.

    The runner-up is the class that sets the radius.  Pictures are brought to the network as those of its training were,
    or refused (`Description.read`); all are read before the first is certified.

    Args:
      images: files, folders or patterns such as '*.png', separated by commas; a name that exists is no pattern.
      say: takes the lines; tell: one about what takes time.
      batch_size, float_slack, trust_code, precision: as of `certify_run`.

    Raises:
      ValueError, FileNotFoundError, CheckpointError: bad arguments, no training there.
      DataError: a picture that cannot be read, or not as it is, by its name.
    """
    Asked(batch_size=batch_size, float_slack=float_slack, precision=precision)
    paths = files_of(images)
    trained = load_trained(workdir, trust_code=trust_code)
    names, pictures = trained.data.class_names, trained.data.read(paths)
    tell("proving a bound of the Lipschitz constant …")
    proven = trained.prove(precision)
    tell(f"radii are of pictures as the network takes them: {'×'.join(map(str, pictures.shape[1:]))} numbers in [0, 1]")
    width = max(len(str(path)) for path in paths)
    for start in range(0, len(paths), batch_size):
        part = slice(start, start + batch_size)
        found = proven.certify(pictures[part], float_slack=float_slack)
        for path, prediction, radius, rival in zip(
            paths[part], found.prediction, found.radius, found.rival, strict=True
        ):
            shown = printed.lower(radius, ".4f")
            say(f"{path!s:{width}}  {names[prediction]}, certified radius {shown}, runner-up {names[rival]}")


def files_of(images: str) -> list[Path]:
    """The files that a text names, see `certify_files`; DataError where there is none."""
    found: list[Path] = []
    for text in [images] if os.path.exists(images) else images.split(","):
        path, some = Path(text), []
        if not text:  # which would be the folder that one is in
            pass
        elif os.path.isdir(path):
            some = images_of(path, [])
        elif os.path.exists(path) or not glob.has_magic(text):
            some = [path]
        else:
            some = [Path(name) for name in sorted(glob.glob(text))]
        if not some:
            raise DataError(f"images={text!r}: no PNG, JPEG or WebP file there")
        found += some
    return found
