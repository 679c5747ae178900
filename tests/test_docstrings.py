"""The examples in docstrings run and print what they say."""

import doctest
import importlib
import pkgutil

import jax
import pytest

import sparsecode_jax
from sparsecode_jax import flops

MODULES = [
    "sparsecode_jax",
    *(m.name for m in pkgutil.walk_packages(sparsecode_jax.__path__, prefix="sparsecode_jax.")),
]


def examples(module):
    return [
        test
        for test in doctest.DocTestFinder(exclude_empty=True).find(module, module.__name__)
        if test.examples
    ]


TESTS = [t for name in MODULES for t in examples(importlib.import_module(name))]


@pytest.mark.parametrize("example", TESTS, ids=lambda test: test.name)
def test_example(example, capsys):
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    names = {"jax": jax}
    if example.name.startswith("sparsecode_jax.flops"):  # its examples begin after the import
        names |= {name: getattr(flops, name) for name in flops.__all__}
    # A copy of the module's names each: examples do not see one another.
    example.globs = {**names, **example.globs}
    results = runner.run(example)
    assert results.attempted > 0
    assert results.failed == 0, capsys.readouterr().out


def test_the_examples_are_found():
    names = {test.name for test in TESTS}
    assert {
        "sparsecode_jax.encoders.flax_adapter.from_flax",
        "sparsecode_jax.flops",
        "sparsecode_jax.training.fit.fit",
        "sparsecode_jax.metrics._matching.mcc",
        "sparsecode_jax.solvers._core.sparse_encode",
        "sparsecode_jax._sweep.sweep",
        "sparsecode_jax.synthetic.problems.sample_problem",
    } <= names
