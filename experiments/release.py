"""Release a trained network: weights and card in pretrained/, certified and attacked on the test split.

    python -m experiments.release --workdir=runs/digits --name=digits --recipe='python train.py --config=…' \
        --licence='weights Apache-2.0, images CC BY 4.0' [--data_dir=DIR]

The card's numbers are those of the network as it is released: unpacked to a folder of its own, proven and certified
there.  `python certify.py --pretrained=NAME --data_dir=DIR` gives them again.
"""

import datetime
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict

from experiments.cells import published
from lipjax.commands import configs
from lipjax.evaluation.split import certify_run
from lipjax.released import FOLDER, release, unpack, with_summaries
from lipjax.system import memory
from lipjax.workdir import Trained, load_trained, training_of

WORKDIR = flags.DEFINE_string("workdir", None, "Of the training.", required=True)
NAME = flags.DEFINE_string("name", None, "Of the network.", required=True)
RECIPE = flags.DEFINE_string("recipe", None, "The command that trained it.", required=True)
SECONDS = flags.DEFINE_float("seconds", None, "Of the training, where its workdir does not hold all of it.")
MACHINE = flags.DEFINE_string("machine", "2 CPU cores, other programs running", "What it was trained on.")
LICENCE = flags.DEFINE_string("licence", "Apache-2.0", "Of the weights, and of the images if it is known.")
ATTACKED = flags.DEFINE_integer("attacked", 1000, "How many of the first test images are attacked too.")
DATA = flags.DEFINE_string("data", None, "What the images are, where the name of the set does not say it.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where they are.")


def main(argv):
    """Write the card, prove, certify, attack, and complete it."""
    if len(argv) > 1:
        sys.exit(f"experiments.release: unexpected arguments {argv[1:]}; see --help")
    logging.set_verbosity(logging.WARNING)
    memory.keep_freed()
    trained = load_trained(WORKDIR.value, DATA_DIR.value)
    check_recipe(RECIPE.value, trained.config)
    seconds = SECONDS.value or sum(epoch["seconds"] for epoch in training_of(trained.workdir))
    words = {"recipe": RECIPE.value, "training_seconds": seconds}
    words |= {"machine": MACHINE.value, "released": datetime.date.today().isoformat()}
    words |= {"licence": LICENCE.value, "images": DATA.value or trained.data.name}
    replace(trained, NAME.value, words, DATA_DIR.value, ATTACKED.value)


def replace(
    trained: Trained, name: str, words: dict[str, Any], data_dir: str | None, attacked: int, folder: Path = FOLDER
) -> None:
    """Release it; a network of this name that is there stays until all that the card says is found.

    Raises:
      ValueError: other images than those of the training, among whose test images some may have been trained on.
    """
    images = trained.dataset(data_dir)  # compared there: an unpacked network does not say what it was trained on
    with tempfile.TemporaryDirectory() as place:
        new = Path(place)
        release(trained, name, words, new)
        workdir = unpack(name, new / name, new)
        found = {
            "summary": certify_run(workdir, dataset=images),
            "first_200": certify_run(workdir, dataset=images, num_examples=200),
            "attacked": certify_run(workdir, dataset=images, num_examples=attacked, attack="fast"),
        }
        with_summaries(name, found, new)
        for end in ("safetensors", "json"):
            shutil.copy(new / f"{name}.{end}", folder)


def check_recipe(recipe: str, config: ConfigDict) -> None:
    """ValueError unless the command trains, in a clone, by this very config."""
    overrides, rest = configs.split_overrides(shlex.split(recipe))
    (name,) = [word.removeprefix("--config=") for word in rest if word.startswith("--config=")]
    asked, trained = published(configs.read(name, overrides)), published(config)
    differ = [key for key in {**asked, **trained} if asked.get(key) != trained.get(key)]
    if differ:
        told = ", ".join(f"config.{key}={asked.get(key)!r} and not {trained.get(key)!r}" for key in differ)
        raise ValueError(f"recipe={recipe!r}: has {told}")


if __name__ == "__main__":
    app.run(main)
