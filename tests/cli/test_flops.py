"""``flops``: its counts are the library's."""

import inspect
import json
import pathlib
import re

import jax
import pytest

import sparsecode_jax as sc
from sparsecode_jax.cli import parser
from sparsecode_jax.dictionary_learning import learn_dictionary

from .shell import M, N, S, run, run_encode


def test_counted_operations_of_a_run_are_those_of_the_flops_command(files, capsys):
    assert run_encode("--num-steps", 7, "--batch-size", 500) == 0
    counted = sc.io.load_results("codes")[1]["flops"]["total"]
    capsys.readouterr()
    sizes = ["--num-measurements", M, "--num-atoms", N, "--num-signals", S]
    assert run("flops", "encode", *sizes, "--num-steps", 7, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    shapes = [jax.ShapeDtypeStruct(s, "float32") for s in ((S, M), (N, M), ())]
    expected = sc.flops.eval_flops(lambda x, d, p: sc.sparse_encode(x, d, p, num_steps=7), *shapes)
    assert result["total"] == expected.total() == counted
    assert result["by_class"] == expected.by("class")
    assert result["per_signal"] == expected.total() / S
    assert result["per_iteration"] == S * (4 * M * N + M + 7 * N) + 9  # fista's formula


def test_counts_not_given_are_those_of_the_library(capsys):
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(learn_dictionary).parameters.items()
    }
    options = parser.parse(["learn", "x.npy", "--num-atoms", "4"])
    for name in ("num_rounds", "num_restarts", "num_hops"):
        assert getattr(options, name) == defaults[name]
    assert options.num_steps == 8  # as the library takes where there is a penalty
    words = ["--num-measurements", 3, "--num-atoms", 600, "--num-signals", 700]
    assert run("flops", "learn", *words, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["num_restarts"], result["num_hops"]) == (1, 0) and "per_hop" not in result
    assert (result["num_rounds"], result["num_steps"]) == (100, 8)
    key, signals = jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct((700, 3), "float32")
    expected = sc.flops.eval_flops(
        lambda k, x: learn_dictionary(k, x, num_atoms=600)[:3], key, signals
    )
    assert result["total"] == pytest.approx(expected.total(), rel=1e-5)  # and scaling
    assert result["by_class"] == pytest.approx(expected.by("class"), rel=1e-3)
    small = ["--num-measurements", 3, "--num-atoms", 100, "--num-signals", 200, "--num-rounds", 2]
    assert run("flops", "learn", *small, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["num_restarts"], result["num_hops"]) == (10, 6)


def test_learning_costs_what_the_library_says(capsys):
    key, signals = jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct((1024, 8), "float32")
    words = ["--num-measurements", 8, "--num-atoms", 16, "--num-signals", 1024, "--json"]
    assert run("flops", "learn", *words) == 0
    result = json.loads(capsys.readouterr().out)
    counted = []
    sc.flops.eval_flops(
        lambda k, x: counted.append(learn_dictionary(k, x, num_atoms=16).flops) or x,
        key, signals,
    )  # fmt: skip
    assert result["refinement"] > 3 * 100 * 8 * 1024 * 2 * 8 * 16
    assert result["total"] == counted[0]


def test_flops_of_a_function_in_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("helper.py").write_text("scale = 2.0\n")
    pathlib.Path("model.py").write_text(
        "import jax\nfrom helper import scale\n"
        "def apply(x, w): return scale * (x @ w.T)\n"
        "def halve(x): return jax.lax.while_loop(lambda x: x > 1, lambda x: x / 2, x)\n"
        "def broken(x): return x.reshape(7)\n"
        "def long(x): raise ValueError('one\\ntwo\\n\\nthree')\n"
        "def leave(x): raise SystemExit(3)\n"
    )
    pathlib.Path("syntax.py").write_text("def f(:\n")
    pathlib.Path("leaves.py").write_text("import sys\nsys.exit(0)\n")
    pathlib.Path("imports.py").write_text("import no_such_module\n")
    pathlib.Path("text.txt").write_text("text\n")
    assert run("flops", "model.py:apply", "--shapes", "64,16", "float32[32,16]", "--json") == 0
    assert json.loads(capsys.readouterr().out)["total"] == 2 * 64 * 32 * 16 + 64 * 32
    words = ["flops", "model.py:apply", "--shapes", "64,16", "32,16", "--convention", "matmul"]
    assert run(*words) == 0
    assert re.search(r"total \(matmul\) +65,536\n", capsys.readouterr().out)
    assert run("flops", "model.py:halve", "--shapes", "float32[]") == 1
    out, err = capsys.readouterr()
    assert "?" in out and "value_and_flops" in err
    for program, shapes, text in (
        ("model.py:nothing", ["3"], "has no function 'nothing'"),
        ("missing.py:apply", ["3"], "missing.py: no such file"),
        ("model.py", ["3"], "encode, learn or path/to/file.py:function is expected"),
        ("model.py:broken", ["3"], "model.py:broken of 3 raises TypeError: cannot reshape"),
        ("model.py:apply", ["3"], "model.py:apply of 3 raises TypeError: apply() missing 1"),
        ("model.py:long", ["3"], "model.py:long of 3 raises ValueError: one two;"),
        ("model.py:leave", ["3"], "model.py:leave of 3 raises SystemExit: 3"),
        ("syntax.py:f", ["3"], "syntax.py cannot be loaded (SyntaxError: "),
        ("leaves.py:f", ["3"], "leaves.py cannot be loaded (SystemExit: 0)"),
        ("imports.py:f", ["3"], "imports.py cannot be loaded (ModuleNotFoundError: "),
        ("text.txt:f", ["3"], "text.txt is not a Python file"),
        ("model.py:apply", ["-3,3"], "unrecognized arguments: -3,3; try"),
        ("model.py:apply", ["3", "3", "--signed"], "--signed is given, but is no option of"),
        ("model.py:apply", ["3", "3", "--num-steps", "4"], "--num-steps 4 is given, but is no"),
        ("model.py:apply", ["3", "four"], "--shapes 'four' is not a shape"),
        ("encode", ["3"], "--num-measurements, --num-atoms, --num-signals not given"),
    ):
        assert run("flops", program, "--shapes", *shapes) == 2
        err = capsys.readouterr().err
        assert text in err and err.startswith("sparsecode-jax flops: ") and err.count("\n") == 1
    with pytest.raises(TypeError, match="cannot reshape"):
        run("flops", "model.py:broken", "--shapes", "3", "--debug")
    with pytest.raises(SyntaxError):
        run("flops", "syntax.py:f", "--shapes", "3", "--debug")


def test_conventions_of_the_parser_are_those_of_the_library(capsys):
    for name in sc.flops.CONVENTIONS:
        words = ["--num-measurements", 4, "--num-atoms", 5, "--num-signals", 6]
        assert run("flops", "encode", *words, "--convention", name, "--num-steps", 1) == 0
        assert f"total ({name})" in capsys.readouterr().out
