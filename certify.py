"""Certify a trained classifier on a split of its data.

    python certify.py --workdir=runs/digits [--attack=fast --split=test --num_examples=N --radii=36/255,0.5]
    python certify.py --workdir=runs/digits --images=a.png,b.png

Kept short: it is `lipjax-certify`, from a clone.  See `lipjax.commands.certify`, and --help.
"""

import sys

try:
    from lipjax.commands.certify import main
    from lipjax.commands.command import leave
except KeyboardInterrupt:  # a command tells it itself, once it runs
    print("certify.py: interrupted; the same command goes on", file=sys.stderr)
    sys.exit(75)

if __name__ == "__main__":
    leave(main())
