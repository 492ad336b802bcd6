"""Train a certifiably robust classifier.

    python train.py --config=configs/cifar100.py [--config.SECTION.KEY=VALUE ...] [--workdir=DIR]

Kept short: it is `lipjax-train`, from a clone.  See `lipjax.commands.train`, and --help.
"""

from lipjax.commands.command import leave
from lipjax.commands.train import main

if __name__ == "__main__":
    leave(main())
