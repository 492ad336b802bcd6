"""Release a trained network: weights and card in pretrained/, certified and attacked on the test split.

    python -m experiments.release --workdir=runs/digits --name=digits --recipe='python train.py --config=…' \
        --licence='weights Apache-2.0, images CC BY 4.0' [--data_dir=DIR]

The card's numbers are those of the network as it is released: unpacked to a folder of its own, proven and certified
there.  `python certify.py --pretrained=NAME --data_dir=DIR` gives them again.
"""

import datetime
import shlex
import sys
import tempfile
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict

from experiments.cells import published
from lipjax.commands import configs
from lipjax.evaluation.split import certify_run
from lipjax.released import release, unpack, with_summaries
from lipjax.system import memory
from lipjax.workdir import load_trained, training_of

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
    release(trained, NAME.value, words)
    with tempfile.TemporaryDirectory() as place:
        workdir = unpack(NAME.value, Path(place) / NAME.value)
        found = {
            "summary": certify_run(workdir, DATA_DIR.value),
            "first_200": certify_run(workdir, DATA_DIR.value, num_examples=200),
            "attacked": certify_run(workdir, DATA_DIR.value, num_examples=ATTACKED.value, attack="fast"),
        }
    with_summaries(NAME.value, found)


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
