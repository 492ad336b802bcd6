"""Certify a trained classifier on a split of its data.

    python certify.py --workdir=runs/digits [--attack=fast --split=test --num_examples=N --radii=36/255,0.5]
    python certify.py --workdir=runs/digits --images=a.png,b.png

Kept short: the logic is in `lipjax.evaluation`.  A rerun of a command that was stopped goes on where it was.
"""

import sys
from pathlib import Path

from absl import app, flags, logging

from lipjax.checkpoint import CheckpointError
from lipjax.data import DataError
from lipjax.evaluation.asked import ATTACKS, SPLITS
from lipjax.evaluation.attack import CertificateViolated
from lipjax.evaluation.single_images import certify_files
from lipjax.evaluation.split import certify_run
from lipjax.evaluation.verify import NotVerified, verify_run
from lipjax.models import program
from lipjax.models.pgd import DOMAINS
from lipjax.system import compilation

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run of train.py.", required=True)
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where the data is, if not where training read it.")
NUM_EXAMPLES = flags.DEFINE_integer("num_examples", None, "Certify only the first so many images.")
SPLIT = flags.DEFINE_enum("split", "test", SPLITS, "Which images; validation: held out of training; train: the rest.")
IMAGES_AT_A_TIME = flags.DEFINE_integer("batch_size", program.BATCH_SIZE, "Images at a time; fewer need less memory.")
ATTACK = flags.DEFINE_enum(
    "attack", "none", ATTACKS, "Attack the images too: fast 10 steps, strong 50 steps × 5 starts."
)
ATTACK_DOMAIN = flags.DEFINE_enum(
    "attack_domain",
    "images",
    DOMAINS,
    "What the attack may reach: images (pixels in [0, 1]), or all of space.",
)
FLOAT_SLACK = flags.DEFINE_float("float_slack", 0.0, "An error of the features, in l2, that certificates shall cover.")
PRECISIONS = flags.DEFINE_bool("precisions", False, "Measure float32 and bfloat16 features against float64 ones.")
PAPER_PROTOCOL = flags.DEFINE_bool(
    "paper_protocol",
    False,
    "Print also what the paper's protocol gives: layers taken as 1-Lipschitz, 9 rivals; no proof.",
)
PRECISION = flags.DEFINE_enum(
    "precision",
    "float64",
    program.PRECISIONS,
    "float32: certify the float32 program too, less its rounding.",
)
VERIFY = flags.DEFINE_bool("verify", False, "Certify again what is in the workdir, and compare; writes nothing.")
TRUST_CODE = flags.DEFINE_bool("trust_code", False, "Execute the Python file in the workdir that makes its network.")
RADII = flags.DEFINE_string("radii", None, "Such as 36/255,0.5 (l2, pixels in [0, 1]); default: as in the config.")
IMAGES = flags.DEFINE_string("images", None, "Certify these files instead: a.png,b.png, a folder, or a pattern.")
# What --images does not take.
OF_SPLITS = (
    *("data_dir", "num_examples", "split", "attack", "attack_domain", "precisions", "paper_protocol", "verify"),
    "radii",
)


def main(argv):
    if len(argv) > 1:
        sys.exit(f"certify.py: unexpected arguments {argv[1:]}; see --help")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    compilation.use_cache()
    try:
        if IMAGES.value is not None:
            if given := [name for name in OF_SPLITS if flags.FLAGS[name].present]:
                raise ValueError(f"--{given[0]}: is of a whole split; it cannot go with --images")
            certify_files(
                Path(WORKDIR.value),
                IMAGES.value,
                batch_size=IMAGES_AT_A_TIME.value,
                float_slack=FLOAT_SLACK.value,
                trust_code=TRUST_CODE.value,
                precision=PRECISION.value,
            )
            return
        if VERIFY.value:
            verify_run(Path(WORKDIR.value), DATA_DIR.value, SPLIT.value, trust_code=TRUST_CODE.value)
            return
        certify_run(
            Path(WORKDIR.value),
            DATA_DIR.value,
            num_examples=NUM_EXAMPLES.value,
            radii=RADII.value,
            split=SPLIT.value,
            batch_size=IMAGES_AT_A_TIME.value,
            attack=ATTACK.value,
            attack_domain=ATTACK_DOMAIN.value,
            float_slack=FLOAT_SLACK.value,
            precisions=PRECISIONS.value,
            paper_protocol=PAPER_PROTOCOL.value,
            trust_code=TRUST_CODE.value,
            precision=PRECISION.value,
        )
    except (ValueError, OSError, DataError, CheckpointError, CertificateViolated, NotVerified) as error:
        sys.exit(f"certify.py: {error}")


if __name__ == "__main__":
    app.run(main)
