"""``sparsecode-jax flops``: operations of inference, of learning or of any JAX function."""

from __future__ import annotations

import argparse
import collections
import functools
import importlib.util
import json
import math
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sparsecode_jax._processes import on_first
from sparsecode_jax.cli import inference
from sparsecode_jax.cli.errors import BadInputError, one_line
from sparsecode_jax.cli.parser import NUM_ROUNDS, NUM_STEPS
from sparsecode_jax.dictionary_learning.search import count_learning, default_counts
from sparsecode_jax.flops import FlopCount, OpenTripCountError, eval_flops

__all__ = ["run"]

Counts = list[tuple[int, FlopCount]]  # each with how often it happens

_SIZES = ("num_measurements", "num_atoms", "num_signals")


def run(options: argparse.Namespace) -> None:
    """Print a count."""
    if options.distributed:  # there is nothing to share
        on_first("flops", lambda: _run(options), patience=math.inf)
    else:
        _run(options)


def _run(options: argparse.Namespace) -> None:
    if options.program in ("encode", "learn"):
        missing = [_flag(name) for name in _SIZES if getattr(options, name) is None]
        if missing:
            raise BadInputError(
                f"{', '.join(missing)} not given; {options.program} is counted from sizes, and "
                f"{', '.join(map(_flag, _SIZES))} are expected."
            )
        if options.shapes is not None:
            raise BadInputError(
                f"--shapes is given, but {options.program} is counted from sizes; a function "
                "path/to/file.py:function is expected with it."
            )
        of_learn, of_encode = ("num_rounds", "num_restarts", "num_hops"), ("solver", "num_active")
        _refuse(options, of_learn if options.program == "encode" else of_encode)
        counts, extra = (_encode if options.program == "encode" else _learn)(options)
    else:
        _refuse(options, (*_SIZES, "num_steps", "signed", "solver", "num_active", "num_rounds",
                          "num_restarts", "num_hops"))  # fmt: skip
        counts, extra = _own(options)
    try:
        _show(options, counts, extra)
    except OpenTripCountError:
        print(*(count for _, count in counts), sep="\n")
        raise RuntimeError(
            "loops or branches depend on values (? above), so shapes alone give no total; count a "
            "run on real arrays with sparsecode_jax.flops.value_and_flops."
        ) from None


def _refuse(options: argparse.Namespace, names: tuple[str, ...]) -> None:
    for name in names:
        given = getattr(options, name)
        if given is not None:
            words = _flag(name) if given is True else f"{_flag(name)} {given}"
            raise BadInputError(
                f"{words} is given, but is no option of {options.program}; leave it out."
            )


def _show(options: argparse.Namespace, counts: Counts, extra: dict[str, Any]) -> None:
    convention = options.convention
    total = sum(times * count.total(convention) for times, count in counts)
    by_class: collections.Counter[str] = collections.Counter()
    for times, count in counts:
        by_class.update({k: times * v for k, v in count.by("class", convention).items()})
    result: dict[str, Any] = {
        "program": options.program,
        "convention": convention,
        "total": total,
        "by_class": dict(by_class),
        **extra,
    }
    if options.num_signals:
        result["per_signal"] = total / options.num_signals
    if options.json:
        print(json.dumps(result, indent=2, sort_keys=True))
        return
    lines = [(f"total ({convention})", total)]
    lines += [(f"  {name}", value) for name, value in result["by_class"].items()]
    labels = {
        "per_signal": "per signal",
        "per_iteration": "per iteration, of all signals",
        "setup": "before the first iteration",
        "per_restart": "per restart",
        "per_hop": "per hop",
        "refinement": "refinement, after all hops",
        "codes": "the codes that are returned",
        "per_round": "a round of a restart, on average",
    }
    lines += [(label, result[name]) for name, label in labels.items() if name in result]
    width = max(len(label) for label, _ in lines)
    print(f"{extra['what']}")
    for label, value in lines:
        text = f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
        print(f"{label.ljust(width)}  {text:>24}")


def _encode(options: argparse.Namespace) -> tuple[Counts, dict[str, Any]]:
    name = options.solver or "fista"
    shape = (options.num_atoms, options.num_measurements)
    choose = functools.partial(
        inference.choose,
        name,
        signed=bool(options.signed),
        num_active=options.num_active,
        shape=shape,
    )
    steps = options.num_steps
    method = choose(num_steps=steps)
    method = choose(num_steps=100) if method.num_steps is None else method
    signals = _like(options.num_signals, options.num_measurements)

    def program(method: inference.Method) -> Callable:
        def encode(signals: Any, dictionary: Any, penalty: Any) -> Any:
            step = inference.step_size(dictionary, method=method)
            return inference.infer(signals, dictionary, penalty, step, None, method=method)[0]

        return encode

    count = eval_flops(program(method), signals, _like(*shape), _like())
    setup = eval_flops(program(method._replace(num_steps=0)), signals, _like(*shape), _like())
    before = setup.total(options.convention)
    total = count.total(options.convention)
    return [(1, count)], {
        "what": f"{options.num_signals:,} signals (M {shape[1]:,}) on {shape[0]:,} atoms, "
        f"{method.name}, {method.num_steps} iterations",
        "solver": method.name,
        "num_steps": method.num_steps,
        "setup": before,
        "per_iteration": (total - before) / method.num_steps,
    }


def _learn(options: argparse.Namespace) -> tuple[Counts, dict[str, Any]]:
    num_rounds, num_steps = options.num_rounds or NUM_ROUNDS, options.num_steps or NUM_STEPS
    if options.num_signals < options.num_atoms:
        raise BadInputError(
            f"--num-signals {options.num_signals} is below --num-atoms {options.num_atoms}; at "
            "least as many signals as atoms are expected."
        )
    restarts, hops = default_counts(options.num_atoms, options.num_restarts, options.num_hops)
    counts = count_learning(
        options.num_signals, options.num_measurements, num_atoms=options.num_atoms,
        num_rounds=num_rounds, num_steps=num_steps, num_restarts=restarts, num_hops=hops,
        signed=bool(options.signed),
    )  # fmt: skip
    each = {name: count.total(options.convention) for name, _, count in counts}
    named = {"hop": "per_hop", "refinement": "refinement", "codes": "codes"}
    return [(times, count) for _, times, count in counts], {
        "what": f"{options.num_atoms:,} atoms from {options.num_signals:,} signals (M "
        f"{options.num_measurements:,}), {restarts} restarts of {num_rounds} rounds of "
        f"{num_steps} steps, {hops} hops",
        "num_restarts": restarts,
        "num_hops": hops,
        "num_rounds": num_rounds,
        "num_steps": num_steps,
        "per_restart": each["restarts"] / restarts,
        "per_round": each["restarts"] / restarts / num_rounds,
        **{named[name]: total for name, total in each.items() if name in named},
    }


def _own(options: argparse.Namespace) -> tuple[Counts, dict[str, Any]]:
    path, _, name = options.program.rpartition(":")
    if not path:
        raise BadInputError(
            f"{options.program!r} is not a program; encode, learn or path/to/file.py:function is "
            "expected."
        )
    function = _load(pathlib.Path(path), name)
    if options.shapes is None:
        raise BadInputError(
            f"no --shapes; one an argument of {name} is expected, such as --shapes 1024,16 32,16."
        )
    shapes = [_shape(text) for text in options.shapes]
    given = " ".join(options.shapes) or "no arguments"
    try:
        count = eval_flops(function, *shapes)
    except (Exception, SystemExit) as error:
        raise BadInputError(
            f"{options.program} of {given} raises {_said(error)}; a JAX function that takes arrays "
            "of these --shapes is expected (--debug shows the traceback)."
        ) from error
    return [(1, count)], {"what": f"{options.program} of {given}", "shapes": options.shapes}


def _load(path: pathlib.Path, name: str) -> Callable:
    if not path.is_file():
        raise BadInputError(
            f"{path}: no such file; path/to/file.py:function is expected, and the file to be there."
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise BadInputError(f"{path} is not a Python file; path/to/file.py:function is expected.")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # as if it were run as a script
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise BadInputError(
            f"{path} cannot be loaded ({_said(error)}); a Python file that can be imported is "
            "expected (--debug shows the traceback)."
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise BadInputError(
            f"{path} has no function {name!r}; a function at the top of the file is expected."
        )
    return function


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


def _shape(text: str) -> jax.ShapeDtypeStruct:
    match = re.fullmatch(r"([a-z]+[0-9]*)\[([\d,]*)\]|([\d,]*)", text)
    try:
        if match is None:
            raise ValueError
        sizes = match[2] if match[1] else match[3]
        shape = tuple(int(size) for size in sizes.split(",") if size)
        return jax.ShapeDtypeStruct(shape, jnp.dtype(match[1] or "float32"))
    except (TypeError, ValueError):
        raise BadInputError(
            f"--shapes {text!r} is not a shape; one like 1024,16 or float32[1024,16] is expected."
        ) from None


def _like(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
