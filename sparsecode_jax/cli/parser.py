"""The options of every command, and their help."""

from __future__ import annotations

import argparse
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from sparsecode_jax.cli import texts
from sparsecode_jax.dictionary_learning import learn_dictionary
from sparsecode_jax.dictionary_learning.search import STEPS

__all__ = ["LASSO_SOLVERS", "NUM_ROUNDS", "NUM_STEPS", "PROGRAM", "PURSUITS", "parse"]

PROGRAM = "sparsecode-jax"
LASSO_SOLVERS = ("sparsa", "working-set", "fista", "ista")
NUM_ROUNDS = inspect.signature(learn_dictionary).parameters["num_rounds"].default
NUM_STEPS = STEPS
_INT = 2**31 - 1  # the largest of 32 bits
_STEPS, _ROUNDS = 10**8, 10**6  # the most: ten times the steps, three times the rounds fit them
PURSUITS = ("omp", "ols", "subspace-pursuit")


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, like those of the commands."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; try {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read a command line, or stop with SystemExit."""
    parser = _Parser(
        PROGRAM,
        description=texts.MAIN,
        epilog=texts.FIRST_STEPS,
        formatter_class=_form,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _learn(_command(commands, "learn", "learn", texts.LEARN, texts.LEARN_END))
    _encode(_command(commands, "encode", "encode", texts.ENCODE, texts.ENCODE_END))
    _improve(_command(commands, "improve", "improve", texts.IMPROVE, texts.IMPROVE_END))
    _flops(_command(commands, "flops", "count", texts.FLOPS, texts.FLOPS_END))
    options, unknown = parser.parse_known_args(argv)
    if unknown:  # said by the command, whose --help has the words that it knows
        commands.choices[options.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    return options


def _command(
    commands: argparse._SubParsersAction, name: str, module: str, about: str, end: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=texts.SUMMARIES[name],
        description=about,
        epilog=end,
        formatter_class=_form,
        allow_abbrev=False,
    )
    parser.set_defaults(module=module, distributed=False)
    parser.add_argument("--debug", action="store_true", help="show the traceback if the run fails")
    return parser


def _distributed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="share the work with the other processes that srun, mpirun, Kubernetes or a TPU pod "
        "has started with the same command; the first one prints and writes",
    )


def _learn(parser: argparse.ArgumentParser) -> None:
    _distributed(parser)
    parser.add_argument("signals", help=".npy file of numbers, (S, M)")
    add = parser.add_argument
    add("--num-atoms", type=count, required=True, metavar="N", help="atoms to learn (required)")
    add(
        "--penalty",
        type=positive,
        metavar="X",
        help="weight of |z|_1, in the units of the signals; more is sparser (default: .015 of the "
        "root mean square norm of the signals)",
    )
    add(
        "--signed",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="codes of either sign (default: non-negative)",
    )
    add(
        "--num-rounds",
        type=rounds,
        default=NUM_ROUNDS,
        metavar="T",
        help="rounds of codes and atoms, of a restart; a hop has six tenths of them, the "
        "refinement three times as many (default: %(default)s)",
    )
    add(
        "--num-steps",
        type=steps,
        default=NUM_STEPS,
        metavar="T",
        help="solver steps per round (default: %(default)s)",
    )
    add(
        "--num-restarts",
        type=rounds,
        metavar="R",
        help="random starts, side by side (default: 16 up to 64 atoms, 1,024 / N above, 1 "
        "from 513 atoms)",
    )
    add(
        "--num-hops",
        type=hops,
        metavar="H",
        help="then, so many times: learn on from R copies of the best dictionary at once, each "
        "with two atoms replaced by signals, and keep the best (default: 6, or 0 if R is 1)",
    )
    add(
        "--max-signals",
        type=count,
        metavar="S",
        help="learn from at most so many signals, drawn at random "
        "from the file (default: 100 per atom, at least 10,000, and at most 2^26 / N)",
    )
    add(
        "--seed",
        type=seed,
        default=0,
        metavar="I",
        help="of the random starts and of the draw; same seed, same result (default: 0)",
    )
    _outputs(parser, "learned")


def _encode(parser: argparse.ArgumentParser) -> None:
    _distributed(parser)
    parser.add_argument("signals", help=".npy file of numbers, (S, M) or (..., M)")
    add = parser.add_argument
    add(
        "--dictionary",
        required=True,
        metavar="FILE",
        help=".npz with an array 'dictionary' (what "
        "learn writes) or .npy; (N, M), one atom per row (required)",
    )
    add(
        "--penalty",
        type=positive,
        metavar="X",
        help="weight of |z|_1, in the units of the signals; more is sparser (default: what the "
        "dictionary was learned with; else .015 of the root mean square norm of the signals)",
    )
    add(
        "--signed",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="codes of either sign (default: as the dictionary was learned, else non-negative)",
    )
    add(
        "--solver",
        choices=(*LASSO_SOLVERS, *PURSUITS),
        metavar="SOLVER",
        help="with a penalty: sparsa (default), "
        "working-set (default from 1,024 atoms on), fista (default with --num-steps), ista; with "
        "--num-active atoms per signal and no penalty: omp (orthogonal matching pursuit), ols "
        "(orthogonal least squares), subspace-pursuit",
    )
    stop = parser.add_mutually_exclusive_group()
    stop.add_argument(
        "--tolerance",
        type=positive,
        metavar="X",
        help="stop each signal once its objective is "
        "surely this close to its minimum, as a fraction of 1/2 |x|^2 (default: 1e-4)",
    )
    stop.add_argument(
        "--num-steps",
        type=steps,
        metavar="T",
        help="take so many solver steps for every signal instead",
    )
    add(
        "--num-active",
        type=count,
        metavar="K",
        help="the most active atoms of a signal; only with omp, ols and subspace-pursuit, which "
        "need it",
    )
    add(
        "--batch-size",
        type=count,
        metavar="B",
        help="signals at a time (default: 4,096, fewer above 8,192 atoms)",
    )
    add(
        "--dense",
        action="store_true",
        help="write the codes as an array of S x N numbers in .npy, not as a sparse matrix in .npz",
    )
    _outputs(parser, "codes")


def _improve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        metavar="SAE_FOLDER",
        help="of an autoencoder by SAELens, dictionary_learning or sparsify",
    )
    parser.add_argument(
        "signals", metavar="ACTIVATIONS", help=".npy file of activations, (S, M), in document order"
    )
    add = parser.add_argument
    add(
        "--num-active",
        type=count,
        metavar="K",
        help="active latents of a signal (default: the encoder's own mean)",
    )
    add(
        "--max-flops",
        type=positive,
        metavar="X",
        help="the most operations per signal of the recommended codes (default: no limit)",
    )
    add(
        "--num-steps",
        type=steps,
        nargs="*",
        default=[5, 20],
        metavar="T",
        help="of the solvers that begin at the encoder's codes (default: 5 20)",
    )
    add(
        "--num-choice",
        type=count,
        metavar="S",
        help="the first signals, which penalties and the recommendation are chosen on and which "
        "are not scored (default: a fifth, at most 1,024)",
    )
    add(
        "--batch-size",
        type=count,
        metavar="B",
        help="signals at a time (default: 1,024, fewer above 32,768 latents)",
    )
    _outputs(parser, "improved")


def _outputs(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--output",
        default=default,
        metavar="NAME",
        help=f"name of the files to write, without suffix (default: {default})",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace what an earlier run wrote there, finished or interrupted",
    )
    parser.add_argument("--no-figure", dest="figure", action="store_false", help="draw no figure")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


def _flops(parser: argparse.ArgumentParser) -> None:
    _distributed(parser)
    add = parser.add_argument
    add("program", metavar="PROGRAM", help="encode, learn, or file.py:function")
    add(
        "--convention",
        choices=("matmul", "arithmetic", "all", "ops"),
        default="arithmetic",
        help="what to count (default: arithmetic)",
    )
    add("--json", action="store_true", help="print one JSON object")
    sizes = parser.add_argument_group("sizes, for encode and learn")
    sizes.add_argument(
        "--num-measurements", type=count, metavar="M", help="numbers in a signal (required)"
    )
    sizes.add_argument("--num-atoms", type=count, metavar="N", help="atoms (required)")
    sizes.add_argument("--num-signals", type=count, metavar="S", help="signals (required)")
    sizes.add_argument(
        "--num-steps",
        type=steps,
        metavar="T",
        help="solver steps (default: 100 for encode, K for omp and ols, 10 for subspace-pursuit; "
        f"{NUM_STEPS} per round for learn)",
    )
    sizes.add_argument(
        "--signed",
        action="store_const",
        const=True,
        help="codes of either sign (default: non-negative)",
    )
    sizes.add_argument(
        "--solver",
        choices=(*LASSO_SOLVERS, *PURSUITS),
        metavar="SOLVER",
        help=f"for encode: {', '.join((*LASSO_SOLVERS, *PURSUITS))} (default: fista)",
    )
    sizes.add_argument(
        "--num-active",
        type=count,
        metavar="K",
        help="for encode: active atoms of a signal, with omp, ols, subspace-pursuit",
    )
    sizes.add_argument(
        "--num-rounds",
        type=rounds,
        metavar="T",
        help=f"for learn: rounds of a restart (default: {NUM_ROUNDS})",
    )
    sizes.add_argument(
        "--num-restarts",
        type=rounds,
        metavar="R",
        help="for learn (default: 16 up to 64 atoms, 1,024 / N above, 1 from 513 atoms)",
    )
    sizes.add_argument(
        "--num-hops",
        type=hops,
        metavar="H",
        help="for learn (default: 6, or 0 if R is 1)",
    )
    own = parser.add_argument_group("shapes, for a function of yours")
    own.add_argument(
        "--shapes",
        nargs="*",
        metavar="SHAPE",
        help="one an argument: 1024,16 is float32[1024,16]; int32[8]; float32[] is a scalar",
    )


def _form(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, width=100, max_help_position=28)


def _number(text: str, kind: type, expected: str, fits: Callable[[float], bool]) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not fits(value):
        raise argparse.ArgumentTypeError(f"{text!r} given; {expected} is expected")
    return value


def integer(low: int, high: int) -> Callable[[str], int]:
    """Return a reader of integers from low to high."""
    expected = f"an integer from {low} to {high:,}"

    def read(text: str) -> int:
        return int(_number(text, int, expected, lambda x: low <= x <= high))

    return read


def seed(text: str) -> int:
    """Read an integer from 0 to 2^32 - 1."""
    return int(_number(text, int, "an integer from 0 to 2^32 - 1", lambda x: 0 <= x < 2**32))


def positive(text: str) -> float:
    """Read a finite number > 0."""
    fits = lambda x: math.isfinite(x) and x > 0  # noqa: E731
    return _number(text, float, "a finite number > 0", fits)


count, steps = integer(1, _INT), integer(1, _STEPS)
rounds, hops = integer(1, _ROUNDS), integer(0, _ROUNDS)


class _Version(argparse.Action):
    def __call__(self, *_: object) -> NoReturn:
        """Print the versions, which are looked up only now."""
        import jax

        import sparsecode_jax

        print(f"{PROGRAM} {sparsecode_jax.__version__} (jax {jax.__version__})")
        raise SystemExit(0)
