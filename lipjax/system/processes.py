"""Several processes that train together: how they find each other, and decisions that all take alike."""

import hashlib
import os
import socket
import sys
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

# The variables by which processes are told of each other where no cluster manager does it.
ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
CONNECT_SECONDS = 300


class ConnectError(RuntimeError):
    """The other processes could not be found or reached."""


def connect(timeout_seconds: int = CONNECT_SECONDS) -> None:
    """Join the other processes; must come before any other use of jax.

    They are found by JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID if these
    are set, otherwise as `jax.distributed.initialize` detects them (Slurm, Open MPI, Kubernetes, cloud TPUs).

    Raises:
      ConnectError: some of the variables but not all, an address or number that is none, no cluster to detect, or
        nobody at the address within the time.
    """
    given = {name: os.environ[name] for name in (ADDRESS, COUNT, INDEX) if os.environ.get(name)}
    if given and len(given) < 3:
        missing = ", ".join(name for name in (ADDRESS, COUNT, INDEX) if name not in given)
        raise ConnectError(
            f"config.run.distributed=True: {', '.join(given)} set without {missing}; set all three or none"
        )
    keywords: dict[str, Any] = {}
    if given:
        address = given[ADDRESS]
        try:
            keywords = {"num_processes": int(given[COUNT]), "process_id": int(given[INDEX])}
            host, port = address.rsplit(":", 1)
            server = (host, int(port))
        except ValueError as error:
            raise ConnectError(
                f"config.run.distributed=True: {given} must be host:port of process 0 and two integers"
            ) from error
        if not 0 <= keywords["process_id"] < keywords["num_processes"]:
            raise ConnectError(f"config.run.distributed=True: {INDEX}={given[INDEX]} must be from 0 to {COUNT} − 1")
        keywords["coordinator_address"] = address
        if keywords["process_id"]:
            _await_server(server, timeout_seconds)
        # Where other processes stay away jax aborts this one, without the address: it stands in the log before.
        who = f"process {keywords['process_id']} of {keywords['num_processes']}"
        print(f"{who}: meeting the others at {address}, for up to {timeout_seconds} s", file=sys.stderr, flush=True)
    try:
        jax.distributed.initialize(**keywords, initialization_timeout=timeout_seconds)
    except (ValueError, RuntimeError) as error:
        where = given.get(ADDRESS, f"no {ADDRESS} set, no cluster detected")
        raise ConnectError(f"config.run.distributed=True: the processes did not connect ({where}): {error}") from error


def _await_server(server: tuple[str, int], timeout_seconds: float) -> None:
    """Wait until somebody listens there.  jax itself would abort the process, without the address."""
    ends = time.monotonic() + timeout_seconds
    while True:
        try:
            socket.create_connection(server, timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > ends:
                raise ConnectError(
                    f"config.run.distributed=True: nobody answers at {ADDRESS}={server[0]}:{server[1]} "
                    f"after {timeout_seconds} s ({error}); is process 0 running there?"
                ) from error
            time.sleep(0.2)


def leave_others() -> None:
    """End a process with code 1, at once, if it has joined others: jax's own exit would wait for theirs, as they do."""
    if jax.distributed.is_initialized():
        os._exit(1)


def is_first() -> bool:
    """Whether this process is the one that writes logs."""
    return jax.process_index() == 0


def any_process(*flags: bool) -> tuple[bool, ...]:
    """Each flag, true if it is true in some process.  All processes must call it; it waits for them."""
    if jax.process_count() == 1:
        return flags
    return tuple(bool(flag) for flag in multihost_utils.process_allgather(np.array(flags)).any(axis=0))


def equal_in_all(text: str) -> bool:
    """Whether all processes have the same text.  All must call it; it waits for them."""
    if jax.process_count() == 1:
        return True
    own = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32)
    return bool((multihost_utils.process_allgather(own) == own).all())


def broadcast_from_first(number: float) -> float:
    """The number that the first process has, so that hosts that round differently decide alike."""
    if jax.process_count() == 1:
        return number
    halves = multihost_utils.broadcast_one_to_all(np.array([number]).view(np.uint32))  # float64 would be cut to float32
    return float(np.asarray(halves).view(np.float64)[0])
