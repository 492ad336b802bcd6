"""A trace of some training steps, for TensorBoard's profile page or ui.perfetto.dev."""

from pathlib import Path

import jax

FIRST, LAST = 10, 15  # dispatches after the start of the run: compilation is over, the trace small


class StepTrace:
    """While it is entered, traces what comes after FIRST calls of `step`, up to LAST."""

    def __init__(self, folder: Path):
        self._folder, self._taken, self._is_on = folder, 0, False

    def __enter__(self) -> "StepTrace":
        return self

    def step(self, result: object) -> None:
        """After a step with its result, which is awaited where the trace begins and ends."""
        self._taken += 1
        if self._taken == FIRST:
            jax.block_until_ready(result)
            jax.profiler.start_trace(str(self._folder))
            self._is_on = True
        elif self._taken == LAST:
            jax.block_until_ready(result)
            self.__exit__()

    def __exit__(self, *exception: object) -> None:
        if self._is_on:
            jax.profiler.stop_trace()
            self._is_on = False
