"""Write 500 pictures of five classes, a folder each: one's own images, to try `configs/own_data.py` with.

    python benchmarks/own_pictures.py --output=pictures [--data_dir=DIR]
    python train.py --config=configs/own_data.py --config.data.data_dir=pictures --workdir=runs/own
    python certify.py --workdir=runs/own

They are the first 100 test images of each class of CIFAR-10, as PNG files.
"""

from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

from lipjax.data import load

OUTPUT = flags.DEFINE_string("output", None, "The folder that is written.", required=True)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where tensorflow-datasets keeps CIFAR-10.")

CLASSES = ("airplane", "automobile", "frog", "horse", "ship")
COUNT = 100


def main(_):
    dataset = load("cifar10", DATA_DIR.value)
    for name in CLASSES:
        folder = Path(OUTPUT.value) / name
        folder.mkdir(parents=True, exist_ok=True)
        for index in np.flatnonzero(dataset.test.labels == dataset.class_names.index(name))[:COUNT]:
            Image.fromarray(dataset.test.images[index]).save(folder / f"{index:05}.png")


if __name__ == "__main__":
    app.run(main)
