"""lipjax-export, and python -m lipjax.export: a trained network to a file of another program."""

from absl import flags

from lipjax.commands import command
from lipjax.commands.help import page
from lipjax.export.deployed import DTYPES
from lipjax.export.run import FORMATS, export_run
from lipjax.system.devices import check_backend
from lipjax.workdir import folder_of

NAME = "lipjax-export"
ABOUT = """
    {name} --workdir=DIR --to=stablehlo|onnx|torch|npz --output=FILE

    Writes the trained network as plain convolutions, matrices and activations that run without lipjax, with the
    constants of its certificate, after it was run there on the test split and compared with ours (docs/export.md).
"""


def main(given: command.Given = None) -> int:
    """The command with these arguments, None: those of the process; its exit code."""
    return command.run(NAME, lambda: _export(command.arguments(given)))


def _export(given: list[str]) -> None:
    own = _flags()
    command.parsed(own, given)
    value = own.flag_values_dict()
    if value.pop("help"):
        print(page(ABOUT.format(name=NAME), own))
        return
    for name, meaning in {"workdir": "DIR", "to": "|".join(FORMATS), "output": "FILE"}.items():
        if value[name] is None:
            raise flags.Error(f"{name} is missing: --{name}={meaning}; see --help")
    check_backend()
    names = ("to", "output", "dtype", "data_dir", "num_examples", "trust_code")
    export_run(folder_of(value["workdir"]), **{name: value[name] for name in names})


def _flags() -> flags.FlagValues:
    own = command.own_flags()
    flags.DEFINE_string("workdir", None, "Folder of a training.", flag_values=own)
    flags.DEFINE_string("to", None, f"The format, one of {', '.join(FORMATS)}.", flag_values=own)
    flags.DEFINE_string("output", None, "The file to write, which must not be there yet.", flag_values=own)
    about = "Of constants and arithmetic. In float32 files are smaller, and so are radii, by what rounding may do."
    flags.DEFINE_enum("dtype", "float64", DTYPES, about, flag_values=own)
    flags.DEFINE_string("data_dir", None, "Where the data is, if not where training read it.", flag_values=own)
    flags.DEFINE_integer("num_examples", None, "Compare only the first so many test images.", flag_values=own)
    flags.DEFINE_bool(
        "trust_code", False, "Execute the Python file in the workdir that makes its network.", flag_values=own
    )
    return own


if __name__ == "__main__":
    command.leave(main())
