"""What every command does: print under any locale, tell a mistake in one line, end with a code."""

import errno
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import flags, logging

from lipjax.checkpoint import CheckpointError
from lipjax.data import DataError
from lipjax.system import compilation, memory
from lipjax.system.devices import BackendError
from lipjax.system.interruption import Interruption
from lipjax.system.processes import ConnectError, leave_others

# What a user can mend, or a machine refuses; all else is a fault of ours, and its traceback is wanted.
_TOLD = (
    *(flags.Error, ValueError, OSError, MemoryError, jax.errors.JaxRuntimeError),
    *(BackendError, CheckpointError, ConnectError, DataError),
)

_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)

Given = Sequence[str] | None


def own_flags() -> flags.FlagValues:
    """The flags of one call: a command may run many times in a process, as `%run` does."""
    own = flags.FlagValues()
    flags.DEFINE_bool("help", False, "This page.", short_name="h", flag_values=own)
    return own


def arguments(given: Given) -> list[str]:
    """Those given, or those of the process."""
    return list(sys.argv[1:] if given is None else given)


def parsed(own: flags.FlagValues, given: Sequence[str]) -> None:
    """Parse them; flags.Error names a flag, its value and what is allowed, also where anything is left over."""
    left = own(["", *given])[1:]
    if left:
        raise flags.Error(f"unexpected arguments {left}; see --help")


def run(name: str, work: Callable[[], None], told: Sequence[type[Exception]] = ()) -> int:
    """The exit code of a command: 0; 1 after an error, told in a line; 75 where the same command goes on.

    Args:
      told: kinds of errors to tell, beside those of every command.
    """
    _print_under_any_locale()
    logging.set_verbosity(logging.WARNING)
    warnings.filterwarnings("ignore", "Error writing persistent compilation cache")  # compiled again, no more
    compilation.use_cache()
    memory.keep_freed()
    try:
        with Interruption():
            work()
    except KeyboardInterrupt as stopped:
        return _told(name, str(stopped) or "interrupted; the same command goes on", os.EX_TEMPFAIL)
    except (*_TOLD, *told) as error:
        code = _told(name, _in_a_line(error), 1)
        leave_others()
        return code
    return 0


def leave(code: int) -> None:
    """End the process with a code; in a notebook, where `%run` would show a traceback of that, only the work."""
    shell = sys.modules.get("IPython")
    if code and not (shell and shell.get_ipython()):
        sys.exit(code)


def _told(name: str, message: str, code: int) -> int:
    print(f"{name}: {message}", file=sys.stderr, flush=True)
    return code


def _in_a_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        return f"out of memory: {text}"
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return f"{text}; the same command goes on once there is room"
    return text


def _print_under_any_locale() -> None:
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)  # a notebook's has none, and needs none
        if reconfigure:
            reconfigure(errors="replace")
