"""Two wheels from one source: each installs alone, and neither needs the other."""

import builtins
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
import pytest

import sparsecode_jax
from sparsecode_jax import flops

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = {"sparsecode_jax": ROOT, "jaxflops": ROOT / "packages" / "jaxflops"}
COUNT = """
halve = lambda x: jax.lax.while_loop(lambda x: x > 1.0, lambda x: x / 2.0, x)
assert jax.vmap(value_and_flops(halve))(jax.numpy.array([100.0, 3.0]))[1].total().tolist() == [7, 2]
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Build both as ``pip install`` does, without a network; return the folders they unpack to."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip('install ".[test]", which has hatchling')
    return {name: built(name, FOLDERS[name], tmp_path_factory.mktemp(name)) for name in FOLDERS}


def built(name, source, place):
    """Make the wheel of a folder or of an sdist, and unpack it."""
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    call([*command, "--no-index", "-w", str(place / "wheel"), str(source)], place)
    (wheel,) = (place / "wheel").glob(f"{name}-{sparsecode_jax.__version__}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place / "site")
    return place / "site"


def call(command, folder):
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr


def run(program, *sites):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sites))}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=sites[0], timeout=1500
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_transform_alone_loads_jax_and_numpy_and_nothing_else(wheels):
    tops = "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    before = run(f"import sys, jax, numpy, jax.extend.random; {tops}", wheels["jaxflops"])
    count = f"import sys, jax\nfrom jaxflops import value_and_flops\n{COUNT}\n{tops}"
    added = set(run(count, wheels["jaxflops"])) - set(before)
    assert "jaxflops" in added
    assert {name for name in added if name not in sys.stdlib_module_names} == {"jaxflops"}
    assert not (wheels["jaxflops"] / "sparsecode_jax").exists()


def test_the_library_alone(wheels):
    program = (
        "import sys, jax\nfrom sparsecode_jax.flops import value_and_flops\n"
        f"{COUNT}\nassert 'jaxflops' not in sys.modules\nimport sparsecode_jax\n"
        "print(sparsecode_jax.__file__)"
    )
    (place,) = run(program, wheels["sparsecode_jax"])
    assert pathlib.Path(place).is_relative_to(wheels["sparsecode_jax"])
    assert not (wheels["sparsecode_jax"] / "jaxflops").exists()


def test_both_in_one_process(wheels):
    program = (
        "import jax, jaxflops\nfrom sparsecode_jax import flops\n"
        "fun, x = lambda x: jax.lax.fori_loop(0, x.astype(int), lambda _, y: y * 2.0, x), 5.0\n"
        "for first, second in ((jaxflops, flops), (flops, jaxflops)):\n"
        "    (_, inner), outer = first.value_and_flops(second.value_and_flops(fun))(jax.numpy.ones("
        "()) * x)\n"
        "    assert inner.total() == outer.total() == 5\n"
        "print('counted')"
    )
    assert run(program, wheels["jaxflops"], wheels["sparsecode_jax"]) == ["counted"]


def test_it_is_the_same_source(wheels):
    source = pathlib.Path(flops.__file__).parent
    for path in source.glob("*.py"):
        assert (wheels["jaxflops"] / "jaxflops" / path.name).read_bytes() == path.read_bytes()
    extra = {path.name for path in (wheels["jaxflops"] / "jaxflops").iterdir()}
    assert extra - {path.name for path in source.glob("*.py")} == {"LICENSE", "py.typed"}


@pytest.mark.parametrize("name", FOLDERS)
def test_an_sdist_builds_the_same_wheel(name, wheels, tmp_path):
    call([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path], FOLDERS[name])
    (sdist,) = tmp_path.glob("*.tar.gz")
    sites = wheels[name], built(name, sdist, tmp_path)
    files = [{f.relative_to(s): f.read_bytes() for f in s.rglob("*") if f.is_file()} for s in sites]
    for one in files:  # RECORD lists them, in any order
        one.update({f: sorted(text.splitlines()) for f, text in one.items() if f.name == "RECORD"})
    assert files[0] == files[1]


def test_it_depends_on_jax_and_numpy_alone_as_the_library_does():
    projects = {
        name: tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        for name, folder in FOLDERS.items()
    }
    needed = projects["jaxflops"]["dependencies"]
    assert {re.match(r"\w+", item)[0] for item in needed} == {"jax", "numpy"}
    assert set(needed) <= set(projects["sparsecode_jax"]["dependencies"])
    for field in ("requires-python", "license"):
        assert projects["jaxflops"][field] == projects["sparsecode_jax"][field]


def test_its_readme_runs_and_names_what_is_there():
    text = (FOLDERS["jaxflops"] / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 60
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(compile(block.replace("jaxflops", flops.__name__), "README", "exec"), {})
    for call in re.findall(r"`(\w+)[(\[]", text):
        assert any(hasattr(x, call) for x in (flops, flops.FlopCount, builtins, jax)), call


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("count", "errors"), id="some"),
        pytest.param(("*",), id="all", marks=pytest.mark.slow),
    ],
)
def test_the_tests_of_the_transform_pass_with_jaxflops_alone(wheels, tmp_path, names):
    """They are its own: they need nothing of the other distribution, whose import fails here."""
    tests = tmp_path / "own_tests"
    shutil.copytree(ROOT / "tests" / "flops", tests)
    for path in tests.glob("*.py"):
        text = path.read_text().replace("sparsecode_jax.flops", "jaxflops")
        path.write_text(
            text.replace("from sparsecode_jax import flops", "import jaxflops as flops")
        )
    for name in ("docs", "package_programs"):  # of this project's own pages and programs
        (tests / f"test_{name}.py").unlink()
    (tmp_path / "conftest.py").write_text(
        "import sys\nsys.modules['sparsecode_jax'] = None\n"
        "def pytest_configure(config): config.addinivalue_line('markers', 'full_effort: x')\n"
    )
    files = sorted(path for name in names for path in tests.glob(f"test_{name}.py"))
    program = (
        "import sys, pytest\n"
        f"code = pytest.main(['-q', '-p', 'no:cacheprovider', '--rootdir', {str(tmp_path)!r}, "
        f"*{[str(path) for path in files]!r}])\n"
        "assert code == 0, code\nassert sys.modules['jaxflops'].__file__.startswith"
        f"({str(wheels['jaxflops'])!r})"
    )
    words = run(program, wheels["jaxflops"], tmp_path)
    assert int(words[words.index("passed") - 1]) >= (30 if "*" not in names else 500)
