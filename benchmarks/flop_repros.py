"""Programs from public issues about FLOP counts, counted by XLA and by the transform.

Command: ``python -m benchmarks.flop_repros --write`` (a minute on 2 cores) regenerates the table of
``docs/other_counters.md``; without ``--write`` it is printed. The column of torch needs the extra
``bench``. The truth is a closed form: of the program as written, a product over K terms being 2K
operations.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import itertools
import math
import operator
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.flop_counters import Program, nnx_tabulate, roofline, torch_count
from sparsecode_jax.flops import value_and_flops

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "other_counters.md"
BEGIN, END = "<!-- begin of the table -->\n", "<!-- end of the table -->\n"
COLUMNS = (
    "issue",
    "program",
    "truth",
    "here",
    "XLA, compiled",
    "XLA, lowered",
    "roofline: flops / unfused",
    "nnx.tabulate",
    "torch",
)


class Case(NamedTuple):
    """A program of an issue, its arguments, and the truth under a convention.

    ``torch(torch, *args)`` does the same in torch; ``module(nnx, rngs)`` is a module of flax that
    does the same to the last argument, with parameters of its own.
    """

    issue: str
    program: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    truth: int
    convention: str = "arithmetic"
    torch: Callable[..., Any] | None = None
    module: Callable[..., Any] | None = None


def link(place: str) -> str:
    """Return a link to ``owner/name#number``."""
    repository, _, number = place.partition("#")
    return f"[{place}](https://github.com/{repository}/issues/{number})"


def repeated_sums(x: Any, y: Any, z: Any, w: Any) -> Any:
    """Add three arrays, a thousand times over."""
    for _ in range(1000):
        x = x + y + z + w
    return x


def mixed(x: Any, y: Any, z: Any, w: Any) -> Any:
    """Add and multiply arrays."""
    return x + y + z + w * z * w * y


def doubled_sum(x: Any) -> Any:
    """Add up doubled elements in a Python loop."""
    total = 0.0
    for i in range(x.shape[0]):
        total += x[i] * 2
    return total


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


def mlp(layers: Any, x: Any) -> Any:
    """Apply dense layers with biases, and a ReLU between them."""
    for i, (weights, bias) in enumerate(layers):
        x = (jax.nn.relu(x) if i else x) @ weights + bias
    return x


def self_attention(weights: Any, x: Any) -> Any:
    """Apply attention of four heads to itself, with all four projections."""
    qkv, out = weights
    q, k, v = (part.reshape(len(x), 4, -1) for part in jnp.split(x @ qkv, 3, axis=-1))
    scores = jax.nn.softmax(jnp.einsum("ihd,jhd->hij", q, k))
    return jnp.einsum("hij,jhd->ihd", scores, v).reshape(x.shape) @ out


def attention(q: Any, k: Any, v: Any) -> Any:
    """Attend, for each of several heads."""
    return jax.nn.softmax(q @ jnp.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1])) @ v


def conv(kernel: Any, image: Any, padding: str = "SAME") -> Any:
    """Convolve images (NHWC)."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(image, kernel, (1, 1), padding, dimension_numbers=numbers)


def residual_block(kernels: Any, x: Any) -> Any:
    """Add two convolutions to their input."""
    first, second = kernels
    return jax.nn.relu(x + conv(second, jax.nn.relu(conv(first, x))))


def transposed(kernel: Any, x: Any, stride: int = 1) -> Any:
    """Apply a transposed convolution (NHWC)."""
    return jax.lax.conv_transpose(x, kernel, (stride, stride), "VALID")


def transposed_and_gradient(kernel: Any, x: Any) -> Any:
    """Return the sum of a transposed convolution, and its derivatives."""

    def total(kernel: Any, x: Any) -> Any:
        return jnp.sum(transposed(kernel, x, stride=2))

    return jax.value_and_grad(total, (0, 1))(kernel, x)


def torch_stacked(torch: Any, params: Any, x: Any) -> Any:
    """Differentiate residual layers that keep nothing, one after the other."""
    from torch.utils.checkpoint import checkpoint

    def layer(x: Any, up: Any, down: Any) -> Any:
        return x + torch.nn.functional.silu(x @ up) @ down

    leaves = [leaf.requires_grad_() for leaf in (*params, x)]
    for up, down in zip(*params, strict=True):
        x = checkpoint(layer, x, up, down, use_reentrant=False)
    return torch.autograd.grad((x**2).sum(), leaves)


def torch_dense_norm_dense(torch: Any, weights: Any, x: Any) -> Any:
    """Apply dense layers with a batch norm between them."""
    first, second = weights
    normed = torch.nn.functional.batch_norm(torch.relu(x @ first), None, None, training=True)
    return normed @ second


def torch_lstm(torch: Any, weights: Any, inputs: Any) -> Any:
    """Run torch's layer of the same sizes."""
    of_input, of_state = weights
    return torch.nn.LSTM(len(of_input), len(of_state))(inputs)


def torch_transformer(torch: Any, layers: Any, x: Any) -> Any:
    """Apply decoder layers one after the other."""
    for qkv, out, up, down in zip(*layers, strict=True):
        q, k, v = (x @ qkv).chunk(3, dim=-1)
        x = x + torch.softmax(q @ k.T, -1) @ v @ out
        x = x + torch.nn.functional.gelu(x @ up) @ down
    return x


def torch_mlp(torch: Any, layers: Any, x: Any) -> Any:
    """Apply dense layers with biases, and a ReLU between them."""
    for i, (weights, bias) in enumerate(layers):
        x = torch.addmm(bias, torch.relu(x) if i else x, weights)
    return x


def torch_self_attention(torch: Any, weights: Any, x: Any) -> Any:
    """Run torch's module of the same sizes."""
    return torch.nn.MultiheadAttention(x.shape[-1], 4, bias=False)(x, x, x)


def torch_conv(torch: Any, kernel: Any, image: Any, bias: Any = None, **options: Any) -> Any:
    """Convolve images as torch orders their axes."""
    image, kernel = image.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1)
    return torch.nn.functional.conv2d(image, kernel, bias, **options).permute(0, 2, 3, 1)


def torch_residual_block(torch: Any, kernels: Any, x: Any) -> Any:
    """Add two convolutions to their input, in inference mode as in the report."""
    first, second = kernels
    with torch.inference_mode():
        hidden = torch.relu(torch_conv(torch, first, x, padding="same"))
        return torch.relu(x + torch_conv(torch, second, hidden, padding="same"))


def torch_transposed(torch: Any, kernel: Any, x: Any, stride: int = 1) -> Any:
    """Apply a transposed convolution as torch orders axes."""
    x, kernel = x.permute(0, 3, 1, 2), kernel.permute(2, 3, 0, 1)
    return torch.nn.functional.conv_transpose2d(x, kernel, stride=stride)


def torch_transposed_and_gradient(torch: Any, kernel: Any, x: Any) -> Any:
    """Differentiate the sum of a transposed convolution."""
    leaves = kernel.requires_grad_(), x.requires_grad_()
    return torch.autograd.grad(torch_transposed(torch, *leaves, stride=2).sum(), leaves)


def nnx_dense_norm_dense(nnx: Any, rngs: Any) -> Any:
    """Return dense layers with a batch norm between them."""
    norm = nnx.BatchNorm(20, use_running_average=False, rngs=rngs)
    first, second = nnx.Linear(100, 20, rngs=rngs), nnx.Linear(20, 50, rngs=rngs)
    return nnx.Sequential(first, nnx.relu, norm, second)


def nnx_mlp(nnx: Any, rngs: Any) -> Any:
    """Return dense layers with a ReLU between them."""
    first, second = nnx.Linear(784, 512, rngs=rngs), nnx.Linear(512, 512, rngs=rngs)
    return nnx.Sequential(first, nnx.relu, second, nnx.relu, nnx.Linear(512, 10, rngs=rngs))


def alike(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return torch's version of a program that is written with operators alone."""
    return lambda torch, *args: fn(*args)


def cases() -> list[Case]:
    """Return the programs with their truth."""
    ones, million = jnp.ones, 1000 * 1000
    x = ones((1000, 1000))
    layers, batch, width, hidden = 24, 8, 10, 40
    forward = layers * 2 * batch * 2 * width * hidden
    stack = ones((layers, width, hidden)), ones((layers, hidden, width))
    depth, tokens, d = 12, 128, 64
    block = 2 * tokens * 12 * d * d + 4 * tokens * tokens * d
    gpt = tuple(ones((depth, *s)) for s in ((d, 3 * d), (d, d), (d, 4 * d), (4 * d, d)))
    images, sizes = 64, (784, 512, 512, 10)
    dense = [(ones((n, m)), ones(m)) for n, m in itertools.pairwise(sizes)]
    products = 2 * images * sum(n * m for n, m in itertools.pairwise(sizes))
    long, wide, heads = 300, 448, 12
    side, filters = 128 - 3 + 1, 128
    inside = 3 * 8 - 2  # of a line of 8, padded by 1: taps of 3 that meet no padding
    upsampled = 2 * (2 * 5 * 6) * 4 * 12 * 24  # every pixel meets every tap of every kernel
    dot = operator.matmul
    return [
        Case("google/flax#512", "product of 1000 x 1000", dot, (x, x), 2 * 1000**3,
             torch=alike(dot)),
        Case("jax-ml/jax#20184", "product of 2048 x 2048", dot, (ones((2048, 2048)),) * 2,
             2 * 2048**3, torch=alike(dot)),
        Case("jax-ml/jax#16008", "product, 2 x 10 by 10 x 7", dot, (ones((2, 10)), ones((10, 7))),
             2 * 2 * 10 * 7, torch=alike(dot)),
        Case("tensorflow/tensorflow#899", "product, 25 x 16 by 16 x 9", dot,
             (ones((25, 16)), ones((16, 9))), 2 * 25 * 16 * 9, torch=alike(dot)),
        Case("jax-ml/jax#22249", "dense layer, batch 4", lambda k, b, x: x @ k + b,
             (ones((73, 256)), ones(256), ones((4, 73))), 2 * 4 * 73 * 256 + 4 * 256,
             torch=alike(lambda k, b, x: x @ k + b),
             module=lambda nnx, rngs: nnx.Linear(73, 256, rngs=rngs)),
        Case("jax-ml/jax#33490", "contraction of two axes",
             lambda a, b: jnp.einsum("abc,bcd->ad", a, b), (ones((3, 4, 5)), ones((4, 5, 6))),
             2 * 3 * 4 * 5 * 6, torch=lambda torch, a, b: torch.einsum("abc,bcd->ad", a, b)),
        Case("jax-ml/jax#13956", "x+y+z+w·z·w·y", mixed, (x, x, x, x), 6 * million,
             torch=alike(mixed)),
        Case("jax-ml/jax#13956", "x+y+z+w, 1000 times", repeated_sums, (x, x, x, x),
             3 * 1000 * million, torch=alike(repeated_sums)),
        Case("jax-ml/jax#31257", "sum(x)·5", lambda x: x.sum() * 5, (x,), million,
             torch=alike(lambda x: x.sum() * 5)),
        Case("jax-ml/jax#31257", "sum(x·5)", lambda x: (x * 5).sum(), (x,), 2 * million - 1,
             torch=alike(lambda x: (x * 5).sum())),
        Case("jax-ml/jax#19296", "sum in a Python loop", doubled_sum, (ones(3),), 6,
             torch=alike(doubled_sum)),
        Case("jax-ml/jax#19296", "cumsum of 1000", lambda x: x.cumsum(0), (ones(1000),), 999,
             torch=alike(lambda x: x.cumsum(0))),
        Case("jax-ml/jax#17912", "conv 2 x 2, padded", conv,
             (ones((2, 2, 1, 2)), ones((1, 4, 4, 1))), 2 * 2 * (3 + 4) ** 2,
             torch=lambda torch, *a: torch_conv(torch, *a, padding="same"),
             module=lambda nnx, rngs: nnx.Conv(1, 2, (2, 2), use_bias=False, rngs=rngs)),
        # Forward, the first product of each layer again, and two products backward for each.
        Case("jax-ml/jax#18672", "gradient of a rematerialized scan, products", jax.grad(stacked),
             (stack, ones((batch, width))), forward + forward // 2 + 2 * forward, "matmul",
             torch=torch_stacked),
        Case("google/flax#4883", "dense, batch norm, dense, products", dense_norm_dense,
             ((ones((100, 20)), ones((20, 50))), ones((16, 100))),
             2 * 16 * (100 * 20 + 20 * 50), "matmul",
             torch=torch_dense_norm_dense, module=nnx_dense_norm_dense),
        Case("facebookresearch/fvcore#98", "LSTM of 20 units, 5 steps, products", lstm,
             ((ones((10, 80)), ones((20, 80))), ones((5, 3, 10))), 5 * 2 * 3 * 80 * (10 + 20),
             "matmul", torch=torch_lstm,
             module=lambda nnx, rngs: nnx.RNN(nnx.LSTMCell(10, 20, rngs=rngs), time_major=True)),
        Case("marin-community/marin#1955", "12 decoder layers by a scan, products", transformer,
             (gpt, ones((tokens, d))), depth * block, "matmul", torch=torch_transformer),
        # A bias for each output, and a ReLU for each hidden unit.
        Case("facebookresearch/fvcore#108", "3 dense layers, 64 images", mlp,
             (dense, ones((images, sizes[0]))),
             products + images * (sum(sizes[1:]) + sum(sizes[1:-1])),
             torch=torch_mlp, module=nnx_mlp),
        # Four projections, and two products of tokens with tokens; how many heads is the same.
        Case("facebookresearch/fvcore#153", "self-attention, 4 heads, products", self_attention,
             ((ones((wide, 3 * wide)), ones((wide, wide))), ones((long, wide))),
             4 * 2 * long * wide**2 + 2 * 2 * long**2 * wide, "matmul", torch=torch_self_attention,
             module=lambda nnx, rngs: nnx.MultiHeadAttention(4, wide, decode=False, rngs=rngs)),
        Case("pytorch/pytorch#195460", "attention, 12 heads, products", attention,
             (ones((1, heads, 64, 64)),) * 3, heads * 2 * 2 * 64 * 64 * 64, "matmul",
             torch=lambda torch, *a: torch.nn.functional.scaled_dot_product_attention(*a)),
        Case("Lyken17/pytorch-OpCounter#37", "conv 3 x 3 with a bias",
             lambda k, b, x: conv(k, x, "VALID") + b,
             (ones((3, 3, 1, filters)), ones(filters), ones((1, 128, 128, 1))),
             side**2 * filters * (2 * 3 * 3 + 1),
             torch=lambda torch, k, b, x: torch_conv(torch, k, x, bias=b),
             module=lambda nnx, rngs: nnx.Conv(1, filters, (3, 3), padding="VALID", rngs=rngs)),
        Case("pytorch/pytorch#126268", "residual block, conv 3 x 3, products", residual_block,
             ((ones((3, 3, 16, 16)),) * 2, ones((1, 8, 8, 16))), 2 * (2 * inside**2 * 16 * 16),
             "matmul", torch=torch_residual_block),
        Case("facebookresearch/fvcore#78", "transposed conv 3 x 3 of a pixel, products",
             transposed, (ones((3, 3, 32, 1)), ones((1, 1, 1, 32))), 2 * 3 * 3 * 32, "matmul",
             torch=torch_transposed,
             module=lambda nnx, rngs: nnx.ConvTranspose(32, 1, (3, 3), padding="VALID", rngs=rngs)),
        # Forward, and as much for the derivative by the kernel and for that by the images.
        Case("pytorch/pytorch#119806", "transposed conv 2 x 2 and its gradient, products",
             transposed_and_gradient, (ones((2, 2, 12, 24)), ones((2, 5, 6, 12))), 3 * upsampled,
             "matmul", torch=torch_transposed_and_gradient),
    ]  # fmt: skip


def ours(case: Case) -> int:
    """Return the count of the transform."""
    return jax.jit(value_and_flops(case.fn))(*case.args)[1].total(case.convention)


def xla(case: Case, compiled: bool) -> int:
    """Return XLA's cost analysis, of the program before or after it is compiled."""
    lowered = jax.jit(case.fn).lower(*case.args)
    stage = lowered.compile() if compiled else lowered
    return round((stage.cost_analysis() or {}).get("flops", -1))


def others(case: Case) -> list[str]:
    """Return what the counters say that are no compiler's: numbers, or the name of an error."""
    truth = {case.convention: case.truth}
    program = Program(case.program, case.fn, case.args, truth, case.torch, case.module)
    return [
        roofline(program, "flops", "unfused_flops"),
        nnx_tabulate(program),
        torch_count(program),
    ]


def table() -> str:
    """Return the table, in Markdown, with the versions of what is counted by and the errors."""
    rows = [f"| {' | '.join(COLUMNS)} |", "|---|---|" + "--:|" * (len(COLUMNS) - 2)]
    errors = []
    for case in cases():
        numbers = (case.truth, ours(case), xla(case, True), xla(case, False))
        cells = [link(case.issue), case.program, *(f"{n:,}" for n in numbers), *others(case)]
        for i, cell in enumerate(cells):
            if cell.isidentifier():
                errors.append(f"What raises: `{cell}`, {COLUMNS[i]} of {case.issue}.")
                cells[i] = "raises"
        rows.append(f"| {' | '.join(cells)} |")
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in ("jax", "flax", "torch"))
    return "\n".join([*rows, "", f"On a CPU, with {versions}.", *errors]) + "\n"


def main(write: bool) -> None:
    """Print the table, and put it into the page."""
    if importlib.util.find_spec("torch") is None:
        raise SystemExit(
            "flop_repros: torch is not installed, which has a column of the table; expected the "
            'extra bench: pip install -e ".[bench]".'
        )
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
