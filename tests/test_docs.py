"""Each Python block of the pages in docs/ runs on its own (flops.md has tests of its own)."""

import ast
import functools
import operator
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import sparsecode_jax as sc

DOCS = pathlib.Path(__file__).parents[1] / "docs"


def blocks():
    """Return (page, first line, code) of every block; blank lines keep line numbers right."""
    found = []
    for page in sorted(DOCS.glob("*.md")):
        if page.name == "flops.md":
            continue
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, match.start(1))
            found.append((page.name, line + 1, "\n" * line + match[1]))
    return found


BLOCKS = blocks()


def names_of(code):
    """Return the names of the package that a program reads, such as encoders.top_k of sc."""
    for node in ast.walk(ast.parse(code)):
        name, parts = node, []
        while isinstance(name, ast.Attribute):
            parts.insert(0, name.attr)
            name = name.value
        if parts and isinstance(name, ast.Name) and name.id == "sc":
            yield ".".join(parts)


def test_tutorials_name_what_there_is():
    """The slow tests run them."""
    found = {
        (path.name, name)
        for path in (DOCS / "tutorials").glob("*.py")
        for name in names_of(path.read_text(encoding="utf-8"))
    }
    assert len(found) > 50
    for path, name in sorted(found):
        assert operator.attrgetter(name)(sc), path


def test_every_block_is_found_and_asserts_something():
    names = [page for page, _, _ in BLOCKS]
    assert names.count("embedding.md") == 10
    assert names.count("devices.md") == 4
    for page, line, code in BLOCKS:
        assert re.search(r"^ *assert ", code, flags=re.MULTILINE), f"{page}:{line}"
        assert len(code.strip().splitlines()) <= 42, f"{page}:{line}"


@pytest.mark.parametrize(
    ("page", "line", "code"), BLOCKS, ids=[f"{page}:{line}" for page, line, _ in BLOCKS]
)
def test_block_runs(page, line, code):
    for library in ("equinox", "haiku"):  # of the extra flops-outside
        if f"import {library} as" in code:
            pytest.importorskip(library)
    if "XLA_FLAGS" not in code:
        exec(compile(code, f"docs/{page}", "exec"), {"__name__": page})
        return
    # The flag is read when the first array is made: an interpreter of its own. What the tests say
    # of how to compile stays beside what the page says of devices.
    flag = "--xla_force_host_platform_device_count=8"
    assert code.count(f'"{flag}"') == 1
    code = code.replace(flag, f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip())
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=DOCS.parent)
    assert run.returncode == 0, run.stderr


def test_what_embedding_says_of_derivatives():
    x, d = jnp.ones((4, 6)), jnp.eye(8, 6) + 0.1
    pursuit = sc.solvers.orthogonal_matching_pursuit(2)
    for works, stop in (
        (("forward", "reverse"), {"num_steps": 3}),
        (("forward", "reverse"), {"tolerance": 1e-3}),
        (("forward", "reverse"), {"num_steps": 2, "solver": pursuit}),
        (("forward",), {"tolerance": 1e-3, "solver": pursuit}),
    ):

        def total(d, stop=stop):
            return jnp.sum(sc.sparse_encode(x, d, 0.1, **stop))

        modes = {"forward": lambda d, f=total: jax.jvp(f, (d,), (d,)), "reverse": jax.grad(total)}
        for mode, derivative in modes.items():
            if mode in works:
                jax.eval_shape(derivative, d)
            else:
                with pytest.raises((TypeError, ValueError), match="(forward|Reverse)-mode"):
                    jax.jit(derivative).lower(d)
    solution = functools.partial(sc.sparse_encode, x, d, tolerance=1e-3)
    jax.eval_shape(jax.hessian(lambda penalty: jnp.sum(solution(penalty))), 0.1)


def test_implicit_derivatives_do_not_see_how_the_codes_were_found():
    x, d = jnp.ones((4, 6)), jnp.eye(8, 6) + 0.1

    def total(codes0, step_size, tolerance):
        start = {"codes0": codes0, "step_size": step_size}
        return jnp.sum(sc.sparse_encode(x, d, 0.1, tolerance=tolerance, **start))

    arguments = (jnp.ones((4, 8)), jnp.float32(0.1), jnp.float32(1e-3))
    assert not any(jnp.any(g != 0) for g in jax.grad(total, argnums=(0, 1, 2))(*arguments))


def test_a_prox_of_unknown_penalty_refuses_a_tolerance():
    solver = sc.solvers.ista(prox=lambda x, t: jnp.where(x * x > 2 * t, x, 0))
    with pytest.raises(ValueError, match="does not say what its penalty is"):
        sc.sparse_encode(jnp.ones(2), jnp.eye(2), 0.1, tolerance=0.1, solver=solver)
