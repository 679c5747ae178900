"""The direction of imports, and what is public."""

import ast
import functools
import graphlib
import importlib
import inspect
import os
import pathlib
import pkgutil
import re
import runpy
import subprocess
import sys

import pytest

import sparsecode_jax

PACKAGE = pathlib.Path(sparsecode_jax.__file__).parent
ROOT = PACKAGE.parent
LAYERS = (
    (
        "types",
        "_bound",
        "_checks",
        "_jax_release",
        "_order",
        "_positive",
        "_processes",
        "_rows",
        "_scaling",
        "_sharding",
        "_sparse",
    ),
    (
        "prox",
        "dictionaries",
        "objectives",
        "metrics",
        "synthetic",
        "statistics",
        "flops",
        "io",
        "_sweep",
    ),
    ("solvers", "encoders", "io.saes"),
    ("training", "dictionary_learning", "_improve", "activations"),
    ("__init__",),
    ("cli", "__main__"),
)
WHOLE = {"__init__", "cli"}  # may import the whole package
LAYER = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "experiments").rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
MODULES = sorted(
    m.name for m in pkgutil.walk_packages(sparsecode_jax.__path__, prefix="sparsecode_jax.")
)


def name_of(path):
    return str(path.relative_to(ROOT))


@functools.cache
def imports(path):
    """Return every module a file imports, as (dotted name, whether inside a function)."""
    found = set()

    def visit(node, inside):
        if isinstance(node, ast.Import):
            found.update((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = path.relative_to(ROOT).with_suffix("").parts
                base = ".".join([*parts[: -node.level], *filter(None, [base])])
            found.update((f"{base}.{alias.name}", inside) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            visit(child, inside or function)

    visit(ast.parse(path.read_text()), False)
    return frozenset(found)


def ours(path):
    """Return the top-level parts of our package that a file imports."""
    parts = set()
    for name, _ in imports(path):
        head, _, rest = name.partition(".")
        if head == "sparsecode_jax":
            parts.add(part_named(rest))
    return parts


def part_named(name):
    """Return the part of a dotted name: a module that has a layer of its own, or the first name."""
    names = name.split(".")
    return next((x for x in (".".join(names[:2]), names[0]) if x in LAYER), names[0] or "__init__")


def part_of(path):
    return part_named(".".join(path.relative_to(PACKAGE).with_suffix("").parts))


def users(paths, package):
    pattern = re.compile(rf"{re.escape(package)}(\.|$)")
    return {name_of(p) for p in paths if any(pattern.match(name) for name, _ in imports(p))}


def test_the_parser_sees_imports():
    fit = PACKAGE / "training" / "fit.py"
    assert ours(fit) >= {"_checks", "io", "training", "types"}
    assert ("matplotlib.figure.Figure", True) in imports(PACKAGE / "cli" / "plots.py")
    assert ("jax", False) in imports(fit)
    assert len(FILES) > 25
    assert len(SCRIPTS) > 5


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down(path):
    mine = part_of(path)
    assert mine in LAYER, f"{mine} has no layer"
    for part in ours(path):
        assert part in LAYER, f"{name_of(path)} imports {part}, which has no layer"
        front = (mine, part) == ("io", "io.saes") and path.name == "__init__.py"
        assert front or LAYER[part] <= LAYER[mine], f"{name_of(path)} imports {part} from above"
        assert mine in WHOLE or part != "__init__", "nothing imports the whole package"
    for name, _ in imports(path):
        assert name.partition(".")[0] not in {"experiments", "benchmarks", "tests"}


@pytest.mark.parametrize(
    ("part", "allowed"),
    [("flops", ()), ("_sweep", ("_sharding", "io")), ("io", ("_processes", "_sharding", "types"))],
    ids=["flops", "sweep", "io"],
)
def test_what_works_on_any_function_imports_next_to_nothing_of_ours(part, allowed):
    for path in FILES:
        if part_of(path) == part:
            assert ours(path) - {"io.saes"} <= {part, *allowed}, name_of(path)


def test_flops_is_a_package_of_its_own():
    """It is a distribution too, under another name: packages/jaxflops."""
    for path in FILES:
        if part_of(path) == "flops":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and not node.level:
                    assert node.module.split(".")[0] in {"jax", *sys.stdlib_module_names}, path.name
                elif isinstance(node, ast.Import):
                    tops = {alias.name.split(".")[0] for alias in node.names}
                    assert tops <= {"jax", "numpy", *sys.stdlib_module_names}, path.name


#: Who may use what JAX does not promise to keep, and what for.
PRIVATE = {
    "sparsecode_jax/flops/_compat.py": "jaxprs are rewritten; tests/flops/test_compat.py",
    "sparsecode_jax/_processes.py": "the coordination service has no public client",
}


def private_names(path):
    """Return what a file reads of JAX that has an underscore or is of jax.interpreters."""
    tree, aliases = list(ast.walk(ast.parse(path.read_text()))), {"jax": "jax"}
    found = {name for name, _ in imports(path)}
    for node in tree:
        if isinstance(node, ast.Import):
            aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            aliases |= {x.asname or x.name: f"{node.module}.{x.name}" for x in node.names}
    for node in tree:
        if isinstance(node, ast.Attribute):
            head, _, rest = ast.unparse(node).partition(".")
            found.add(f"{aliases.get(head, '')}.{rest}")
    return {name for name in found if re.match(r"jax\.(interpreters\b|(\w+\.)*_[a-z])", name)}


def test_private_names_of_jax_are_read_in_two_modules():
    assert {name_of(path) for path in FILES if private_names(path)} == set(PRIVATE)


#: Tests that import them as well: what they hold is private.
OF_TESTS = {"tests/flops/oracle.py", "tests/flops/test_kernels.py"}


def test_private_modules_of_jax_are_imported_nowhere_else():
    folders = ("sparsecode_jax", "experiments", "benchmarks", "examples", "docs", "tests", "tools")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    paths = [path for path in paths if "_src" in path.read_text()]  # parsing takes longer
    assert users(paths, "jax._src") == {*PRIVATE, *OF_TESTS}


def test_a_private_name_stands_beside_the_releases_that_it_was_seen_with():
    releases = runpy.run_path(str(ROOT / "tools" / "test_matrix.py"))["RELEASES"]
    *others, last = releases
    said = f"een in {', '.join(others)} and {last}"
    for name in PRIVATE:
        lines = (ROOT / name).read_text().splitlines()
        places = [number for number, line in enumerate(lines) if "from jax._src" in line]
        of_all = said in (ast.get_docstring(ast.parse("\n".join(lines))) or "")
        assert places and all(of_all or said in lines[number - 1] for number in places), name


def test_what_the_front_of_io_shows_of_a_later_layer_makes_no_circle():
    """The package io imports io.saes, and nothing that io.saes imports may import the package."""
    reached, new = set(), ours(PACKAGE / "io" / "saes.py") - {"io"}
    while new:
        reached |= new
        new = {p for f in FILES if part_of(f) in new for p in ours(f)} - reached
    assert "encoders" in reached
    assert not reached & {"io", "io.saes", "_sweep", "training"}


def module_graph():
    """Return the modules of the package that each imports when it is loaded itself."""
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES}
    known = {name.removesuffix(".__init__") for name in names.values()}

    def module_of(target):  # the longest part of a dotted name that is a module
        while target and target not in known:
            target = target.rpartition(".")[0]
        return target

    graph = {}
    for path, name in names.items():
        own = name.removesuffix(".__init__")
        on_load = {module_of(target) for target, inside in imports(path) if not inside}
        graph[own] = {other for other in on_load if other not in ("", "sparsecode_jax", own)}
    return graph


def test_the_picture_of_imports_has_no_circle():
    graph = module_graph()
    assert "sparsecode_jax.dictionaries" in graph["sparsecode_jax.objectives"]
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError
    assert order.index("sparsecode_jax.types") < order.index("sparsecode_jax.training.fit")
    graph["sparsecode_jax.types"] = {"sparsecode_jax.training.fit"}
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(graph).prepare()


def test_only_experiments_and_one_module_of_the_command_line_plot():
    plots = PACKAGE / "cli" / "plots.py"
    assert users(FILES + BENCHMARKS, "matplotlib") == {name_of(plots)}
    assert ("matplotlib", False) not in {
        (name.split(".")[0], inside) for name, inside in imports(plots)
    }
    assert users(SCRIPTS, "matplotlib")
    assert not users(FILES + SCRIPTS + BENCHMARKS, "matplotlib.pyplot")  # it keeps figures open


def test_chex_is_used_by_the_checks_and_by_tests_alone():
    assert users(FILES + SCRIPTS + BENCHMARKS, "chex") == {"sparsecode_jax/_checks.py"}


def test_flax_is_imported_on_use_in_one_place():
    allowed = {"sparsecode_jax/encoders/flax_adapter.py"}
    assert users(FILES, "flax") <= allowed
    for path in FILES:
        for name, inside in imports(path):
            assert inside or not re.match(r"flax(\.|$)", name), name_of(path)


@pytest.mark.parametrize("package", ["torch", "transformers", "gguf", "accelerate"])
def test_models_of_pytorch_are_imported_on_use_in_one_place(package):
    path = PACKAGE / "activations" / "models.py"
    assert users(FILES, package) == {name_of(path)}
    assert all(inside for name, inside in imports(path) if name.split(".")[0] == package)


@pytest.mark.parametrize("package", ["flax.nnx", "tensorflow", "sklearn"])
def test_never_imported_by_the_library(package):
    assert users(FILES, package) == set()


@pytest.mark.parametrize("package", ["torch", "transformers", "flax.nnx", "tensorflow"])
def test_never_imported_by_experiments_and_tests(package):
    """Benchmarks may, and tests of counts of other packages' programs."""
    tests = sorted(pathlib.Path(__file__).parent.rglob("*.py"))
    tests = [path for path in tests if path.parent.name != "flops_outside"]
    assert users(SCRIPTS + tests, package) == set()


def test_importing_the_library_loads_no_more_than_it_needs_and_touches_no_device():
    program = (
        "import sys, jax; before = dict(jax.config.values); import sparsecode_jax as sc; "
        "ours = lambda: {name for name in sys.modules if name.startswith('sparsecode_jax.')}; "
        "assert ours() == {'sparsecode_jax._jax_release'}, ours(); "
        "[getattr(sc, name) for name in dir(sc)]; assert len(ours()) > 100; "
        "after = {name: jax.config.values[name] for name in before}; "  # parts of JAX add flags
        "assert after == before, 'import changed the configuration'; "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "no_such_platform"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "sparsecode_jax" in loaded
    assert not loaded & {"matplotlib", "torch", "transformers", "sklearn", "flax", "experiments"}


@pytest.mark.parametrize("module", ["sparsecode_jax", *MODULES])
def test_public_names_exist_are_sorted_and_documented(module):
    imported = importlib.import_module(module)
    assert inspect.getdoc(imported), "the module has no docstring"
    names = getattr(imported, "__all__", [])
    assert list(names) == sorted(set(names))
    for name in names:
        value = getattr(imported, name)
        if (
            "._" in module
            or not callable(value)
            or not getattr(value, "__module__", "").startswith("sparsecode")
        ):
            continue
        text = inspect.getdoc(value)
        assert text, f"{name} has no docstring"
        if "Args:" in text and not inspect.isclass(value):
            for parameter in inspect.signature(value).parameters:
                assert re.search(rf"^\s*\**{parameter}:", text, re.MULTILINE), (
                    f"{name} does not document {parameter}"
                )


def test_every_public_module_says_what_is_public():
    for name in MODULES:
        if not name.rpartition(".")[2].startswith("_") and ".flops." not in name:
            assert hasattr(importlib.import_module(name), "__all__"), name


def test_the_package_exports_its_parts():
    parts = {name for names in LAYERS[1:4] for name in names if "." not in name}
    functions = {name[1:] for name in parts if name.startswith("_")}
    assert functions == {"sweep", "improve"}
    modules = {name for name in parts if not name.startswith("_")}
    assert modules | functions <= set(sparsecode_jax.__all__) <= set(dir(sparsecode_jax))
    assert all(inspect.ismodule(getattr(sparsecode_jax, name)) for name in modules)
    assert all(inspect.isfunction(getattr(sparsecode_jax, name)) for name in functions)
    with pytest.raises(AttributeError, match="'sparsecode_jax' has no attribute 'omp'"):
        sparsecode_jax.omp  # noqa: B018
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", sparsecode_jax.__version__)


def readers_of_programs(path):
    """Return the tests of a file that read compiled programs, as (name, whether marked)."""
    tree = ast.parse(path.read_text())
    marked = any("full_effort" in ast.unparse(x) for x in tree.body if isinstance(x, ast.Assign))
    functions = {x.name: x for x in tree.body if isinstance(x, ast.FunctionDef)}

    def read(name, seen):
        """Return what a function calls of any object, and so do those of the file that it names."""
        for node in ast.walk(functions[name]):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                yield node.func.attr if node.args or node.keywords else f"{node.func.attr}()"
            elif isinstance(node, ast.Name) and node.id in functions.keys() - seen:
                yield from read(node.id, seen | {node.id})

    for name, function in functions.items():
        calls = set(read(name, {name})) if name.startswith("test_") else set()
        if calls & {"memory_analysis()", "hlo_modules()"} or calls >= {"compile()", "as_text()"}:
            yield (
                name,
                marked or any("full_effort" in ast.unparse(x) for x in function.decorator_list),
            )


def test_what_xla_makes_is_read_at_full_effort():
    found = {
        (path.name, name): marked
        for path in pathlib.Path(__file__).parent.rglob("test_*.py")
        for name, marked in readers_of_programs(path)
    }
    assert ("test_gathers.py", "test_what_is_gathered_is_seen") in found
    assert ("test_refit.py", "test_nothing_is_sorted") in found
    assert not [where for where, marked in found.items() if not marked]
