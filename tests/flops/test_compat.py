"""Private names of JAX: the loss of each is noticed where it is used, by its name.

Attributes of what these return (``eqn.ctx.manager``, ``mutation.in_mut``) have the other tests.
"""

import ast
import importlib
import pathlib
import re
import runpy
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from sparsecode_jax.flops import _compat, count_flops


def private_names():
    """Return ``module.name`` of every private name that ``_compat`` reads, and their modules."""
    tree = ast.parse(pathlib.Path(_compat.__file__).read_text(encoding="utf-8"))
    names, modules = set(), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("jax._src"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                try:
                    modules[alias.asname or alias.name] = importlib.import_module(whole)
                except ModuleNotFoundError:
                    names.add(alias.name)
                    modules[alias.name] = importlib.import_module(node.module)
    read = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    names |= {name for name in read if name.count(".") == 1 and name.split(".")[0] in modules}
    return names, modules


NAMES, MODULES = private_names()
SINE = jax.make_jaxpr(jnp.sin)(1.0)


def with_reference(x):
    return jax.new_ref(x)[...]


#: What reads each of them first.
USES = {
    "UNSPECIFIED": lambda: runpy.run_path(_compat.__file__),
    "ad.primitive_jvps": lambda: _compat.identity_primitive("new"),
    "batching.primitive_batchers": lambda: _compat.identity_primitive("new"),
    "core.InternalMutableArrayEffect": lambda: count_flops(with_reference)(1.0),
    "core.eval_jaxpr": lambda: _compat.evaluate(SINE.jaxpr, (), [1.0]),
    "core.typeof": lambda: _compat.aval_of(1.0),
    "mlir._lowerings": lambda: _compat.lowered_as(SINE.eqns[0].primitive),
    "mlir._platform_specific_lowerings": _compat.lowered_primitives,
    "mlir.lower_fun": lambda: _compat.lowered_as(SINE.eqns[0].primitive),
    "mlir.register_lowering": lambda: _compat.identity_primitive("new"),
    "pe.convert_constvars_jaxpr": lambda: _compat.hoist_consts(SINE),
    "pe.dce_jaxpr": lambda: _compat.eliminate_dead_code(SINE.jaxpr),
    "pe.lower_jaxpr2": lambda: _compat._written_out(SimpleNamespace(is_high=True)),
    "pxla._discharge_refs": lambda: count_flops(with_reference)(1.0),
    "source_info_util.current_name_stack": lambda: _compat.equation_context(SINE.eqns[0]),
    "source_info_util.summarize": lambda: _compat.source_of(SINE.eqns[0]),
    "source_info_util.user_context": lambda: _compat.equation_context(SINE.eqns[0]),
    "weakref_lru_cache": lambda: runpy.run_path(_compat.__file__),
}


def test_every_private_name_is_in_the_table():
    assert set(USES) == NAMES


@pytest.mark.parametrize("name", USES)
def test_the_loss_of_a_private_name_is_noticed_and_named(name, monkeypatch):
    module, _, attribute = name.rpartition(".")
    monkeypatch.delattr(MODULES[module or name], attribute)
    with pytest.raises((AttributeError, ImportError), match=rf"{re.escape(attribute)}\b"):
        USES[name]()
