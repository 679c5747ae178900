"""What the processes of one run agree on: what the first of them says, what went wrong in any.

They speak through JAX's coordination service and not through their devices, so that a process that
waits for another one does so for a limited time, whatever its devices are doing.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax

__all__ = [
    "fails_alike",
    "is_first",
    "is_joined_first",
    "join",
    "on_all",
    "on_first",
    "says_it",
    "together",
]

PATIENCE = 600.0  # seconds that a process waits for another one that is alive
_GRACE = 20.0  # seconds in which processes that fail alike do so

_failed = 0  # how often a run has ended here with an error
_calls = 0  # since the last of these
_over: list[str] = []  # what this process has said
_inside = False  # a call of a process's own, inside one that all make


def is_first() -> bool:
    """Say whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def is_joined_first() -> bool:
    """Say whether other processes depend on this one."""
    return jax.distributed.is_initialized() and is_first()


def on_first(name: str, fn: Callable[[], Any], patience: float | None = None) -> Any:
    """Call a function on the first process, and return what it returns on every one.

    Args:
      name: of the public function, for messages.
      fn: returns a JSON value. What it raises is raised by every process.
      patience: the seconds that the others wait for it; None takes ``PATIENCE``.
    """
    mine = fn if is_first() or _alone() else lambda: None
    return _exchanged(name, mine, patience=patience)[1][0]


def on_all(name: str, fn: Callable[[], Any]) -> Any:
    """Call a function on every process; what it raises on the first that fails, all raise.

    Args:
      name: of the public function, for messages.
      fn: what it returns stays with its process.
    """
    return _exchanged(name, fn, tells=False)[0]


def fails_alike(error: BaseException, where: str | None) -> bool:
    """Tell the others that a run ends here with an error, and say whether theirs end so, too.

    Args:
      error: what ends the run.
      where: how far the run had come; None waits for nobody.
    """
    global _failed, _calls
    if jax.process_count() == 1:
        return True
    number, _failed, _calls = _failed, _failed + 1, 0
    if getattr(error, "of_another_process", False):
        return False
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # nobody is there to hear it any more
        place = f"sparsecode_jax/failed/{number}/{jax.process_index()}"
        _client().key_value_set(place, _said(error))
    if where is None:
        return False
    return together(f"failed/{number}/{where}")


def together(what: str) -> bool:
    """Say whether all processes come to the same place within a short time."""
    try:
        _client().wait_at_barrier(f"sparsecode_jax/{what}", int(1e3 * _GRACE))
    except Exception:  # the time is up, or the others have gone
        return False
    return True


def says_it() -> bool:
    """Say whether this process, of those that fail, is the one that prints why: once."""
    if not jax.distributed.is_initialized():
        return True
    try:
        _client().key_value_set("sparsecode_jax/said", str(jax.process_index()))
    except jax.errors.JaxRuntimeError as error:
        return "ALREADY_EXISTS" not in str(error)
    return True


def join(name: str, seconds: int = 300) -> None:
    """Join the processes of a cluster, which JAX finds from its environment.

    Args:
      name: of the command, for messages.
      seconds: in which all have to come; else the process ends.
    """
    # Seen in 0.10.1, 0.11.2 and 0.12.0.1; nothing public says who waits for whom, and where.
    from jax._src import distributed

    if jax.distributed.is_initialized():
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would keep SIGTERM to itself
    state = distributed.global_state

    def give_up() -> None:  # as JAX would a little later, by abort()
        print(
            f"{name}: process {state.process_id} of {state.num_processes} did not meet the others "
            f"at {state.coordinator_address} in {seconds} s; all {state.num_processes} are "
            "expected there. Look at what the others say, and whether all were started.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    watch = threading.Timer(seconds, give_up)
    watch.daemon = True
    watch.start()
    try:
        jax.distributed.initialize(initialization_timeout=seconds + 60)
    except ValueError as error:
        raise ValueError(
            f"{name}: no cluster was found ({error}); SLURM, Open MPI, Kubernetes or a TPU pod is "
            "expected to have started the processes. Start them by srun or mpirun, or leave "
            "--distributed out."
        ) from None
    finally:
        watch.cancel()
    _agree_on_number(name, state.process_id, state.num_processes)


def _agree_on_number(name: str, own: int, told: int) -> None:
    """Raise if processes were told different numbers of them; those of more do not meet."""
    client, place = _client(), "sparsecode_jax/processes"
    client.key_value_set(f"{place}/{own}", str(told))

    def told_to(process: int) -> int:
        return int(client.blocking_key_value_get(f"{place}/{process}", int(1e3 * _GRACE)))

    first = told_to(0)
    counts = [(i, told_to(i)) for i in range(1, told)] if told == first else [(own, told)]
    for process, count in counts:
        if count != first:
            raise ValueError(
                f"{name}: process 0 was told of {first} processes and process {process} of {count};"
                " one number is expected. Start all of them by one srun or mpirun."
            )


def _alone() -> bool:
    return _inside or jax.process_count() == 1


def _exchanged(
    name: str, fn: Callable[[], Any], tells: bool = True, patience: float | None = None
) -> tuple[Any, list]:
    """Call a function, and return what it returned here and on every process, if it tells."""
    global _inside, _calls
    if _alone():
        out = fn()
        return out, [out]
    own, client, place = jax.process_index(), _client(), f"sparsecode_jax/{_failed}/{_calls}/{name}"
    _calls += 1
    mine, out, answer = None, None, ""
    _inside = True
    try:
        out = fn()
        answer = json.dumps({"value": out if tells else None})
    except BaseException as error:
        mine, answer = error, _said(error)
    finally:
        _inside = False
    client.key_value_set(f"{place}/{own}", answer)
    if mine is not None and not isinstance(mine, Exception):
        raise mine  # Ctrl-C waits for nobody
    answers = [
        json.loads(answer if i == own else _answer(name, client, place, i, patience))
        for i in range(jax.process_count())
    ]
    _over.append(f"{place}/{own}")
    if len(_over) > 1:  # all have answered this one, so nobody reads the one before any more
        client.key_value_delete(_over.pop(0))
    failed = next((i for i, given in enumerate(answers) if "error" in given), None)
    if failed is not None:
        raise mine if failed == own and mine is not None else _error(answers[failed])
    return out, [given["value"] for given in answers]


def _answer(name: str, client: Any, place: str, process: int, patience: float | None) -> str:
    """Wait for what a process says, or for its end."""
    began, patience = time.monotonic(), PATIENCE if patience is None else patience
    while time.monotonic() < began + patience:
        try:  # in short naps, so that Ctrl-C is heard
            return client.blocking_key_value_get(f"{place}/{process}", 500)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        try:
            said = client.key_value_try_get(f"sparsecode_jax/failed/{_failed}/{process}")
        except jax.errors.JaxRuntimeError:  # it has not failed
            continue
        raise _error(json.loads(said), elsewhere=True)
    count = jax.process_count()
    raise RuntimeError(
        f"{name}: process {process} of {count} has not answered process {jax.process_index()} for "
        f"{patience:.0f} s; all {count} processes are expected to make the same calls. Pass the "
        "same arguments, checkpoint included, on every process."
    )


def _said(error: BaseException) -> str:
    kind = type(error)
    return json.dumps({"error": str(error), "module": kind.__module__, "kind": kind.__qualname__})


def _error(said: dict[str, str], elsewhere: bool = False) -> BaseException:
    """Make the error of another process anew."""
    kind: Any = getattr(sys.modules.get(said["module"]), said["kind"], RuntimeError)
    error = kind(said["error"])
    error.of_another_process = elsewhere
    return error


def _client() -> Any:
    # Seen in 0.10.1, 0.11.2 and 0.12.0.1, with the client's methods; none is public.
    from jax._src import distributed

    client = distributed.global_state.client
    if client is None:
        raise RuntimeError(
            f"{jax.process_count()} processes that were not joined by jax.distributed.initialize() "
            "cannot agree; it is expected to be called first. Call it in every process."
        )
    return client
