"""Train a certifiably robust classifier.

    python train.py --config=configs/cifar100.py [--config.SECTION.KEY=VALUE ...] [--workdir=DIR]

Kept short: the logic is in `lipjax.training`.  A rerun of the same command resumes.  SIGTERM and Ctrl-C finish the
step, write a checkpoint and exit with code 75 (EX_TEMPFAIL: run it again).
"""

import os
import runpy
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from lipjax.checkpoint import CheckpointError
from lipjax.config import renamed
from lipjax.data import DataError
from lipjax.system import compilation
from lipjax.system.interruption import Interrupted
from lipjax.system.processes import ConnectError, abort, connect, is_first
from lipjax.training.loop import TrainingDiverged, train
from lipjax.workdir import sectioned

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Path of a config file, such as configs/digits.py.", lock_config=False, accept_new_attributes=True
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default: runs/ and the name of the config file.")


def main(argv):
    if len(argv) > 1:
        sys.exit(f"train.py: unexpected arguments {argv[1:]}; flags are --config, --config.SECTION.KEY and --workdir")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    compilation.use_cache()
    workdir = WORKDIR.value or Path("runs") / Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    try:
        config = sectioned(_chosen(CONFIG.value))
        if config.run.get("distributed"):
            connect()
        train(config, Path(workdir))
    except Interrupted as interrupted:
        print(f"train.py: {interrupted}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL)
    except (ValueError, OSError, DataError, CheckpointError, ConnectError, TrainingDiverged) as error:
        abort(f"train.py: {error}")
    if is_first():
        print(f"done; now: python certify.py --workdir={workdir}")


def _chosen(config):
    """The config of the flags; where one names another model or loss, the file's options are not those of that one."""
    flag = flags.FLAGS["config"]
    overridden = config_flags.get_override_values(flag)
    if not {"model.name", "loss.name"} & set(overridden):
        return config
    path, _, argument = config_flags.get_config_filename(flag).partition(":")
    file = runpy.run_path(path)
    return renamed(config, file["get_config"](*[argument] if argument else []), overridden)


def parse_flags(argv):
    """Flags, with a mistyped key or a missing config file told in a line instead of a traceback."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        sys.exit(f"train.py: {error}")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main, flags_parser=parse_flags)
