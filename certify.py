"""Certify a trained classifier on a split of its data.

    python certify.py --workdir=runs/digits [--attack=fast --split=test --num_examples=N --radii=36/255,0.5]
    python certify.py --workdir=runs/digits --images=a.png,b.png

Kept short: it is `lipjax-certify`, from a clone.  See `lipjax.commands.certify`, and --help.
"""

from lipjax.commands.certify import main
from lipjax.commands.command import leave

if __name__ == "__main__":
    leave(main())
