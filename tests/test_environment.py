"""The environment: a compiler that multiplies correctly, pins that say so, a wheel that imports."""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

import sparsecode_jax

ROOT = pathlib.Path(__file__).parents[1]


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_jax_is_not_the_version_that_multiplies_wrongly():
    assert jax.__version__ != "0.10.2"
    assert jaxlib.__version__ != "0.10.2"


@pytest.mark.full_effort
@pytest.mark.parametrize(("dtype", "rows"), [("float32", 40_000), ("float64", 33_000)])
def test_large_vmapped_products_are_right(dtype, rows):
    """jax-ml/jax#39103: jax 0.10.2 gives wrong rows here, without a word."""
    rng = np.random.default_rng(0)
    matrix, codes = rng.normal(size=(3, 3)), rng.normal(size=(rows, 3))
    expected = ((codes @ matrix.T) ** 2).sum(axis=1)
    with jax.enable_x64(dtype == "float64"):
        matrix, codes = jnp.asarray(matrix, dtype), jnp.asarray(codes, dtype)
        sums = jax.jit(jax.vmap(lambda z: jnp.sum((matrix @ z) ** 2)))(codes)
        assert sums.dtype == dtype
    rtol = 1e-4 if dtype == "float32" else 1e-12
    wrong = ~np.isclose(sums, expected, rtol=rtol, atol=rtol)
    assert wrong.mean() == 0


CACHED = """
import collections, jax
events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event.split("/")[-1]]))
import sparsecode_jax as sc
signals = jax.numpy.ones((6, 4)).at[0].set(0.5)
atoms = sc.dictionaries.random(jax.random.key(0), num_atoms=8, num_measurements=4)
sc.sparse_encode(signals, atoms, 0.1, tolerance=1e-3)
sc.sparse_encode(signals, atoms, num_active=2)
encoder = sc.encoders.top_k(4, 8, num_active=2)
recipe = sc.training.Recipe(sc.training.losses.matryoshka((4, 8)))
sc.training.fit(jax.random.key(1), encoder, signals, num_atoms=8, num_steps=2, recipe=recipe)
print(events["cache_hits"], events["cache_misses"])
"""


def test_another_process_finds_every_program_in_the_cache_on_disk(tmp_path):
    """As docs/solvers.md says: what is compiled does not depend on the process."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    env |= {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-c", CACHED]
    said = [subprocess.run(command, env=env, capture_output=True, text=True) for _ in range(2)]
    first, second = ([int(n) for n in one.stdout.split()] for one in said)
    assert first[1] > 10, said[0].stderr
    assert second == [sum(first), 0]


def test_pins_exclude_that_version_and_say_why():
    text = (ROOT / "pyproject.toml").read_text()
    dependencies = project()["dependencies"]
    for package in ("jax", "jaxlib"):
        (pin,) = [d for d in dependencies if re.match(rf"{package}\W", d)]
        assert "!=0.10.2" in pin
    for extra in ("cuda", "tpu"):
        assert "!=0.10.2" in project()["optional-dependencies"][extra][0]
    assert "jax-ml/jax#39103" in text


def test_the_tested_set_pins_every_dependency_by_version_alone():
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    pinned = set()
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)==([^ ;]+)( ; python_version .*)?", line)
        assert match, line
        assert not (match[1].startswith("jax") and match[2].startswith("0.10.2")), line
        pinned.add(match[1].lower().replace("_", "-"))
    extras = project()["optional-dependencies"]
    required = [r for extra in ("test", "docs", "experiments") for r in extras[extra]]
    for requirement in [*project()["dependencies"], *required]:
        name = re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower().replace("_", "-")
        assert name == "sparsecode-jax" or name in pinned, f"{name} is not in constraints.txt"


def test_installed_versions_satisfy_the_python_floor():
    assert sys.version_info >= (3, 11)
    assert project()["requires-python"] == ">=3.11"


def imported_with(release):
    program = f"import jax; jax.__version__ = {release!r}; import sparsecode_jax"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_a_release_with_wrong_numbers_is_refused_at_import():
    done = imported_with("0.10.2")
    assert done.returncode == 1
    assert "ImportError: sparsecode_jax: jax 0.10.2 silently returns wrong" in done.stderr


def test_a_release_too_old_is_refused_at_import():
    assert "ImportError: sparsecode_jax: jax 0.9.2 is installed" in imported_with("0.9.2").stderr


@pytest.mark.parametrize(("release", "warns"), [("0.13.0", True), ("1.0", True), ("0.12.9", False)])
def test_an_untested_release_is_said_at_import(release, warns):
    done = imported_with(release)
    assert done.returncode == 0
    assert (f"jax {release} is newer than the releases" in done.stderr) == warns


def test_the_bound_on_jax_is_one():
    (pin,) = [d for d in project()["dependencies"] if d.startswith("jax>")]
    assert pin == "jax>=0.10.1,!=0.10.2,<0.13"
    assert pin in (ROOT / "sparsecode_jax" / "_jax_release.py").read_text()


@pytest.fixture
def checkout(tmp_path):
    """A copy whose environment holds what says that it is Python 3.11.0, and notes its calls."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    stand_ins = {".venv/bin/python": "3.11.0", "same": "3.11.0", "other": "3.12.9"}
    for name, version in stand_ins.items():
        script = tmp_path / name
        script.write_text(f'#!/bin/sh\necho {name} "$@" >> calls\necho {version}\n')
        script.chmod(0o755)
    return tmp_path


def make(folder, *arguments):
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "MAKEFLAGS", "MAKELEVEL")}
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)


def test_another_interpreter_than_the_environment_has_is_refused(checkout):
    done = make(checkout, "test", "PYTHON=./other")
    assert done.returncode == 2
    assert done.stderr.startswith(
        ".venv holds Python 3.11.0 but PYTHON=./other is 3.12.9; run make clean first, or leave "
        "PYTHON out to use what is there.\n"
    )
    calls = (checkout / "calls").read_text().splitlines()
    assert len(calls) == 2 and all(" -c import platform;" in call for call in calls), calls
    assert not list(checkout.glob(".venv/*.stamp"))


@pytest.mark.parametrize("arguments", [(), ("PYTHON=./same",)])
def test_the_interpreter_of_the_environment_is_taken(checkout, arguments):
    done = make(checkout, ".venv/docs.stamp", *arguments)
    assert done.returncode == 0, done.stderr
    calls = (checkout / "calls").read_text().splitlines()
    assert calls[-1].startswith(".venv/bin/python -m pip install")
    assert "-m venv" not in " ".join(calls)


@pytest.mark.parametrize("found", [{}, {"3.11": "python3.11"}])
def test_the_matrix_says_that_no_newer_python_was_found(found, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("test_matrix", ROOT / "tools" / "test_matrix.py")
    matrix = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(matrix)
    monkeypatch.setattr(matrix, "interpreters", lambda: found)
    monkeypatch.setattr(matrix, "environment", None)  # what would fail
    monkeypatch.setattr(sys, "argv", ["test_matrix.py", "--newest"])
    assert matrix.main() == 0
    said = capsys.readouterr().out
    assert said.endswith(
        f"No Python newer than 3.11 was found, so nothing was run on jax {matrix.NEWEST}.\n"
    )


@pytest.mark.slow
def test_the_wheel_holds_the_package_alone_and_imports_anywhere(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "-w", str(tmp_path)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert f"-{sparsecode_jax.__version__}-" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "unpacked")
    assert "sparsecode_jax/py.typed" in names
    tops = {name.partition("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"sparsecode_jax"}
    assert not [n for n in names if "test" in n.lower() or n.endswith((".pyc", ".checkpoint"))]
    package = ROOT / "sparsecode_jax"
    sources = {f"sparsecode_jax/{p.relative_to(package).as_posix()}" for p in package.rglob("*.py")}
    assert sources <= names

    (tmp_path / "elsewhere").mkdir()
    program = (
        "import sparsecode_jax as sc, numpy as np; print(sc.__file__); "
        "print(sc.sparse_encode(np.ones((1, 2)), np.eye(2), 0.5, num_steps=50)[0, 0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path / "elsewhere",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "unpacked")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    location, code = done.stdout.split()
    assert pathlib.Path(location).is_relative_to(tmp_path / "unpacked")
    assert float(code) == pytest.approx(0.5, abs=1e-4)
