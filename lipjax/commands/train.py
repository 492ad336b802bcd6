"""lipjax-train, and train.py: trains a network as a config says."""

import shlex
import sys
from pathlib import Path

from absl import flags

from lipjax.commands import command, configs
from lipjax.commands.help import page
from lipjax.config import default_config
from lipjax.system.devices import check_backend
from lipjax.system.processes import connect, is_first
from lipjax.training.loop import TrainingDiverged, train
from lipjax.training.recipe import Recipe
from lipjax.workdir import folder_of

# How each command is typed, and the other one, by the name of the file that was started.
_NAMES = {"train.py": ("train.py", "python certify.py"), "lipjax-train": ("lipjax-train", "lipjax-certify")}

ABOUT = """
    {name} --config=NAME|FILE.py [--config.SECTION.KEY=VALUE …] [--workdir=DIR]

    Trains a classifier with proven l2 robustness. VALUE is a Python literal or text. The same command resumes; a
    signal (Ctrl-C, SIGTERM) finishes the step, writes a checkpoint and exits with code 75.
"""


def main(given: command.Given = None) -> int:
    """The command with these arguments, None: those of the process; its exit code."""
    name, other = _NAMES.get(Path(sys.argv[0]).name, _NAMES["lipjax-train"])
    return command.run(name, lambda: _train(name, other, command.arguments(given)), [TrainingDiverged])


def _train(name: str, other: str, given: list[str]) -> None:
    own = command.own_flags()
    shipped = ", ".join(configs.shipped())
    about = f"A config file, or one of {shipped}; with :ARGUMENT for its get_config(ARGUMENT)."
    config = flags.DEFINE_string("config", None, about, flag_values=own)
    about = "Folder of the run; where not given, runs/ and the name of the config."
    workdir = flags.DEFINE_string("workdir", None, about, flag_values=own)
    overrides, rest = configs.split_overrides(given)
    command.parsed(own, rest)
    if own["help"].value:
        chosen = default_config() if config.value is None else configs.read(config.value, overrides)
        of = "the default" if config.value is None else config.value
        print(page(ABOUT.format(name=name), own, Recipe.of(chosen).whole(), of))
        return
    if config.value is None:
        raise flags.Error(f"config is missing: --config=FILE.py, or one of {shipped}; see --help")
    chosen = configs.read(config.value, overrides)
    folder = folder_of(workdir.value or Path("runs") / Path(config.value.partition(":")[0]).stem)
    if chosen.run.get("distributed"):
        connect()
    check_backend()
    train(chosen, folder)
    if is_first():
        print(f"done; now: {other} --workdir={shlex.quote(str(folder))}")
