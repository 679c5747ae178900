"""Programs from public issues about FLOP counts, counted by XLA and by the transform.

Command: ``python -m benchmarks.flop_repros --write`` (a minute on 2 cores) regenerates the table of
``docs/other_counters.md``; without ``--write`` it is printed. The truth is a closed form: of the
program as written, a product over K terms being 2K operations.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sparsecode_jax.flops import value_and_flops

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "other_counters.md"
BEGIN, END = "<!-- begin of the table -->\n", "<!-- end of the table -->\n"


class Case(NamedTuple):
    """A program of an issue, its arguments, and the truth under a convention."""

    issue: str
    program: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    truth: int
    convention: str = "arithmetic"


def link(place: str) -> str:
    """Return a link to ``owner/name#number``."""
    repository, _, number = place.partition("#")
    return f"[{place}](https://github.com/{repository}/issues/{number})"


def repeated_sums(x: Any, y: Any, z: Any, w: Any) -> Any:
    """Add three arrays, a thousand times over."""
    for _ in range(1000):
        x = x + y + z + w
    return x


def doubled_sum(x: Any) -> Any:
    """Add up doubled elements in a Python loop."""
    total = 0.0
    for i in range(x.shape[0]):
        total += x[i] * 2
    return total


def conv(image: Any, kernel: Any) -> Any:
    """Convolve a 4 x 4 image with two 2 x 2 kernels, padded to its own size."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def stacked(params: Any, x: Any) -> Any:
    """Apply residual layers by a scan that keeps nothing (``remat``), and reduce to a number."""

    @jax.checkpoint
    def layer(x: Any, weights: Any) -> tuple[Any, None]:
        up, down = weights
        return x + jax.nn.silu(x @ up) @ down, None

    return jnp.sum(jax.lax.scan(layer, x, params)[0] ** 2)


def dense_norm_dense(weights: Any, x: Any) -> Any:
    """Apply dense layers of 20 and 50 features with a batch norm between them."""
    first, second = weights
    x = jax.nn.relu(x @ first)
    return (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5) @ second


def lstm(weights: Any, inputs: Any) -> Any:
    """Run a layer of 20 units over a sequence."""
    of_input, of_state = weights

    def step(state: Any, x: Any) -> tuple[Any, Any]:
        h, c = state
        gates = x @ of_input + h @ of_state
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(c), c), h

    zero = jnp.zeros((inputs.shape[1], of_state.shape[0]))
    return jax.lax.scan(step, (zero, zero), inputs)[1]


def transformer(layers: Any, x: Any) -> Any:
    """Apply decoder layers by a scan: attention of one head, and a block four times as wide."""

    def layer(x: Any, weights: Any) -> tuple[Any, None]:
        qkv, out, up, down = weights
        q, k, v = jnp.split(x @ qkv, 3, axis=-1)
        x = x + jax.nn.softmax(q @ k.T) @ v @ out
        return x + jax.nn.gelu(x @ up) @ down, None

    return jax.lax.scan(layer, x, layers)[0]


def cases() -> list[Case]:
    """Return the programs with their truth."""
    ones, million = jnp.ones, 1000 * 1000
    x = ones((1000, 1000))
    mlp = 24, 8, 10, 40  # layers, batch, width, hidden width
    layers, batch, width, hidden = mlp
    forward = layers * 2 * batch * 2 * width * hidden
    depth, tokens, d = 12, 128, 64
    block = 2 * tokens * 12 * d * d + 4 * tokens * tokens * d
    gpt = tuple(ones((depth, *s)) for s in ((d, 3 * d), (d, d), (d, 4 * d), (4 * d, d)))
    dot = jnp.matmul
    return [
        Case("google/flax#512", "product of 1000 x 1000", dot, (x, x), 2 * 1000**3),
        Case("jax-ml/jax#20184", "product of 2048 x 2048", dot, (ones((2048, 2048)),) * 2,
             2 * 2048**3),
        Case("jax-ml/jax#16008", "product, 2 x 10 by 10 x 7", dot, (ones((2, 10)), ones((10, 7))),
             2 * 2 * 10 * 7),
        Case("tensorflow/tensorflow#899", "product, 25 x 16 by 16 x 9", dot,
             (ones((25, 16)), ones((16, 9))), 2 * 25 * 16 * 9),
        Case("jax-ml/jax#22249", "dense layer, batch 4", lambda x, k, b: x @ k + b,
             (ones((4, 73)), ones((73, 256)), ones(256)), 2 * 4 * 73 * 256 + 4 * 256),
        Case("jax-ml/jax#33490", "contraction of two axes",
             lambda a, b: jnp.einsum("abc,bcd->ad", a, b), (ones((3, 4, 5)), ones((4, 5, 6))),
             2 * 3 * 4 * 5 * 6),
        Case("jax-ml/jax#13956", "x+y+z+w·z·w·y", lambda x, y, z, w: x + y + z + w * z * w * y,
             (x, x, x, x), 6 * million),
        Case("jax-ml/jax#13956", "x+y+z+w, 1000 times", repeated_sums, (x, x, x, x),
             3 * 1000 * million),
        Case("jax-ml/jax#31257", "sum(x)·5", lambda x: jnp.sum(x) * 5, (x,), million),
        Case("jax-ml/jax#31257", "sum(x·5)", lambda x: jnp.sum(x * 5), (x,), 2 * million - 1),
        Case("jax-ml/jax#19296", "sum in a Python loop", doubled_sum, (ones(3),), 6),
        Case("jax-ml/jax#19296", "cumsum of 1000", jnp.cumsum, (ones(1000),), 999),
        Case("jax-ml/jax#17912", "conv 2 x 2, padded", conv,
             (ones((1, 4, 4, 1)), ones((2, 2, 1, 2))), 2 * 2 * (3 + 4) ** 2),
        # Forward, the first product of each layer again, and two products backward for each.
        Case("jax-ml/jax#18672", "gradient of a rematerialized scan, products", jax.grad(stacked),
             ((ones((layers, width, hidden)), ones((layers, hidden, width))), ones((batch, width))),
             forward + forward // 2 + 2 * forward, "matmul"),
        Case("google/flax#4883", "dense, batch norm, dense, products", dense_norm_dense,
             ((ones((100, 20)), ones((20, 50))), ones((16, 100))),
             2 * 16 * (100 * 20 + 20 * 50), "matmul"),
        Case("facebookresearch/fvcore#98", "LSTM of 20 units, 5 steps, products", lstm,
             ((ones((10, 80)), ones((20, 80))), ones((5, 3, 10))), 5 * 2 * 3 * 80 * (10 + 20),
             "matmul"),
        Case("marin-community/marin#1955", "12 decoder layers by a scan, products", transformer,
             (gpt, ones((tokens, d))), depth * block, "matmul"),
    ]  # fmt: skip


def ours(case: Case) -> int:
    """Return the count of the transform."""
    return jax.jit(value_and_flops(case.fn))(*case.args)[1].total(case.convention)


def xla(case: Case, compiled: bool) -> int:
    """Return XLA's cost analysis, of the program before or after it is compiled."""
    lowered = jax.jit(case.fn).lower(*case.args)
    stage = lowered.compile() if compiled else lowered
    return round((stage.cost_analysis() or {}).get("flops", -1))


def table() -> str:
    """Return the table, in Markdown."""
    where = f"(jax {jax.__version__}, CPU)"
    rows = [f"| issue | program | truth | here | XLA, compiled {where} | XLA, lowered |"]
    rows.append("|---|---|--:|--:|--:|--:|")
    for case in cases():
        numbers = (case.truth, ours(case), xla(case, True), xla(case, False))
        cells = [link(case.issue), case.program, *(f"{n:,}" for n in numbers)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def main(write: bool) -> None:
    """Print the table, and put it into the page."""
    text = table()
    print(text)
    if write:
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into the page")
    main(parser.parse_args().write)
