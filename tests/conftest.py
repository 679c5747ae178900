"""What every test may use: a counter of compilations, a small sparse problem, cheap compilation."""

import gc
import importlib.metadata
import os
import pathlib
import shutil
import signal
import tempfile

import jax
import pytest

from . import contracts

LEAST_EFFORT = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
)


# Files of the longest tests: workers that share files begin with them, so that none is left with
# one when the others are done (with pytest-xdist's --no-loadscope-reorder, which keeps the order).
LONGEST_FIRST = (
    "test_docs.py", "experiments/test_pareto.py", "test_devices.py", "test_modes.py",
    "test_features.py", "test_processes.py", "test_greedy.py", "test_alternating.py",
    "test_improve.py", "test_numbers.py", "experiments/test_synth_sae_bench.py",
)  # fmt: skip


def pytest_addoption(parser):
    parser.addoption(
        "--least-effort",
        action="store_true",
        help="let XLA optimize as little as it can, and leave out tests marked full_effort",
    )


class Programs:
    """How many programs this process, or all workers together, asked XLA for, and found."""

    def __init__(self):
        self.asked, self.found, self.seconds = 0, 0, 0.0

    def on_duration(self, event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            self.asked, self.seconds = self.asked + 1, self.seconds + duration

    def on_event(self, event, **_):
        self.found += event == "/jax/compilation_cache/cache_hits"


PROGRAMS = Programs()


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_testnodedown(node):
    """Add what a worker has counted."""
    for name, value in getattr(node, "workeroutput", {}).get("programs", {}).items():
        setattr(PROGRAMS, name, getattr(PROGRAMS, name) + value)


def pytest_sessionfinish(session):
    """Send what was counted to the process that reports."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["programs"] = vars(PROGRAMS)


def pytest_terminal_summary(terminalreporter):
    """Say how many programs were compiled: it is what takes the time."""
    terminalreporter.write_line(
        f"{PROGRAMS.asked:,} programs were asked of XLA, {PROGRAMS.asked - PROGRAMS.found:,} "
        f"compiled and {PROGRAMS.found:,} found where another test, or the other worker, had left "
        f"them: {PROGRAMS.seconds:,.0f} s of all workers. Processes of tests are not among them."
    )


def pytest_configure(config):
    """Set what is read once, before the first program; workers and child processes inherit it."""
    jax.monitoring.register_event_duration_secs_listener(PROGRAMS.on_duration)
    jax.monitoring.register_event_listener(PROGRAMS.on_event)
    gc.set_threshold(20_000, 50, 100)  # tracing makes many objects: collecting them took 6 %
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # under nohup; children inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):
        return
    if config.getoption("least_effort"):
        flags = list(LEAST_EFFORT)
        if importlib.metadata.version("jaxlib").startswith("0.10."):
            # The larger half of the time at level 0. XLA stops at a flag that it does not know.
            flags.append("--xla_cpu_use_fusion_emitters=false")
        os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")]).strip()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # half of all programs were compiled before
        folder = tempfile.mkdtemp(prefix="sparsecode-jax-programs-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        for name, value in {
            "jax_compilation_cache_dir": folder,
            "jax_persistent_cache_min_compile_time_secs": 0.0,
            "jax_persistent_cache_min_entry_size_bytes": -1,
        }.items():
            os.environ[name.upper()] = str(value)
            jax.config.update(name, value)


def pytest_collection_modifyitems(config, items):
    here = pathlib.Path(__file__).parent
    place = {here / name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))
    if config.getoption("least_effort"):
        marked = [item for item in items if item.get_closest_marker("full_effort")]
        config.hook.pytest_deselected(items=marked)
        items[:] = [item for item in items if item not in marked]


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
