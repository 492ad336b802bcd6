"""A signal is no fault of what is at work when it comes."""

import os
import signal

import pytest

from lipjax.system.interruption import Interrupted, Interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_tells_what_went_wrong_does_not_take_it_for_that(number, capfd):
    with pytest.raises(Interrupted, match=f"{number.name}; the same command goes on"), Interruption():
        try:
            os.kill(os.getpid(), number)
            sum(range(1000))
        except Exception as error:
            raise ValueError("the file is damaged, remove it") from error
    assert f"{number.name}: stopping" in capfd.readouterr().err
