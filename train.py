"""Train a certifiably robust classifier.

    python train.py --config=configs/cifar100.py [--config.SECTION.KEY=VALUE ...] [--workdir=DIR]

Kept short: it is `lipjax-train`, from a clone.  See `lipjax.commands.train`, and --help.
"""

import sys

try:
    from lipjax.commands.command import leave
    from lipjax.commands.train import main
except KeyboardInterrupt:  # a command tells it itself, once it runs
    print("train.py: interrupted; the same command goes on", file=sys.stderr)
    sys.exit(75)

if __name__ == "__main__":
    leave(main())
