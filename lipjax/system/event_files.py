"""Records of epochs as TensorBoard files."""

from pathlib import Path
from typing import Any


class EventFiles:
    """While it is entered, writes each number of a record as a scalar at its epoch.

    Raises:
      ValueError: tensorboardX, which writes them, is not installed.
    """

    def __init__(self, folder: Path, epochs_done: int):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ValueError("config.run.tensorboard=True: needs pip install 'lipjax[tensorboard]'") from error
        # Epochs that will be trained again disappear from the curves.
        self._writer = SummaryWriter(str(folder), purge_step=epochs_done + 1, flush_secs=1)

    def __enter__(self) -> "EventFiles":
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()

    def write(self, record: dict[str, Any]) -> None:
        """One record, with its number under 'epoch'."""
        for name, value in record.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, record["epoch"])
