"""What every test may use: a counter of compilations and a small sparse problem."""

import jax
import pytest

from . import contracts


class Compilations:
    """How many programs XLA has compiled since the fixture was set up."""

    count = 0

    def __call__(self, event: str, duration: float, **_: object) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def compilations():
    counter = Compilations()
    jax.monitoring.register_event_duration_secs_listener(counter)
    yield counter
    jax.monitoring.unregister_event_duration_listener(counter)


@pytest.fixture
def problem():
    """Twenty signals of 8 measurements, three of 16 atoms each, as NumPy float32."""
    return contracts.sparse_problem()


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_are_dropped():
    """Free each module's programs: thousands of them exhaust a process's memory maps."""
    yield
    jax.clear_caches()
