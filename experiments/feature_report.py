"""One page on the latents of an autoencoder of a language model: where they are active.

Each latent has its density, a histogram of its values, the contexts in which it is largest and one
context of each tenth of its values (what is shown from the top alone looks more interpretable than
it is), and, of a model with a language head, the tokens that its atom raises and lowers. The page
needs no network and nothing else.
"""

from __future__ import annotations

import html
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse

import sparsecode_jax as sc
from sparsecode_jax import activations

AROUND = 12  # tokens on each side of a context
LAST_NORM = {"gpt2": "ln_f", "gpt_neox": "final_layer_norm"}  # in others "norm"
NUM_TOP, NUM_BINS, NUM_LOGITS = 6, 24, 8
BATCH = 4096


class Context(NamedTuple):
    """Tokens around one, as texts, the latent's value at each, and the sequence they are of."""

    tokens: tuple[str, ...]
    values: tuple[float, ...]
    center: int
    sequence: int = -1


class Feature(NamedTuple):
    """What is shown of a latent.

    Attributes:
      latent: its number.
      density: fraction of tokens on which it is active.
      mean: of its values where it is active.
      counts: histogram of those, from 0 to the largest.
      largest: value.
      top: contexts of the largest values, of different documents where there are as many.
      deciles: one context drawn from each tenth of its values, the smallest first.
      raised: tokens whose logits its atom raises the most.
      lowered: and lowers.
    """

    latent: int
    density: float
    mean: float
    counts: np.ndarray
    largest: float
    top: tuple[Context, ...]
    deciles: tuple[Context, ...]
    raised: tuple[str, ...] = ()
    lowered: tuple[str, ...] = ()


def codes(sae: sc.io.Sae, store: activations.Store, rows: np.ndarray) -> scipy.sparse.csc_array:
    """Encode rows of a store; return codes (S, N) by columns, those of other tokens 0."""
    parts = []
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        found = np.asarray(sae.encode(store.rows(part)))
        token, latent = np.nonzero(found)
        parts.append((part[token], latent, found[token, latent]))
    token, latent, value = (np.concatenate(x) for x in zip(*parts, strict=True))
    shape = len(store.tokens), sae.dictionary.shape[0]
    return scipy.sparse.csc_array((value, (token, latent)), shape=shape)


def sequences(store: activations.Store) -> np.ndarray:
    """Return the number of the sequence of each token: contexts do not reach beyond it."""
    starts = np.diff(store.positions, prepend=store.positions[0] + 1) != 1
    return np.cumsum(starts | (np.diff(store.documents, prepend=-1) != 0))


def features(
    latents: Sequence[int],
    found: scipy.sparse.csc_array,
    store: activations.Store,
    texts: Sequence[str],
    num_tokens: int,
    *,
    seed: int = 0,
) -> list[Feature]:
    """Describe latents.

    Args:
      latents: their numbers.
      found: from :func:`codes`.
      store: the activations.
      texts: of each token in the vocabulary.
      num_tokens: how many were encoded.
      seed: of the contexts that are drawn from tenths.
    """
    sequence, rng = sequences(store), np.random.default_rng(seed)
    described = []
    for latent in latents:
        column = _column(found, latent)
        rows, values = (np.asarray(list(x)) for x in (column.keys(), column.values()))
        if not column:
            described.append(Feature(int(latent), 0.0, 0.0, np.zeros(NUM_BINS, int), 0.0, (), ()))
            continue
        largest = float(np.max(values))
        order = np.argsort(-values, kind="stable")
        _, first = np.unique(store.documents[rows[order]], return_index=True)
        apart = order[np.sort(first)]  # the largest of each document
        top = [*apart, *np.setdiff1d(order, apart, assume_unique=True)][:NUM_TOP]
        tenths = [part for part in np.array_split(order[::-1], 10) if len(part)]
        described.append(Feature(
            int(latent), len(rows) / num_tokens, float(np.mean(values)),
            np.histogram(values, NUM_BINS, (0, largest))[0], largest,
            tuple(_context_of(int(rows[i]), column, store, sequence, texts) for i in top),
            tuple(
                _context_of(int(rows[rng.choice(part)]), column, store, sequence, texts)
                for part in tenths
            ),
        ))  # fmt: skip
    return described


def without(
    latents: Sequence[int],
    found: scipy.sparse.csc_array,
    store: activations.Store,
    texts: Sequence[str],
    rows: np.ndarray,
    *,
    count: int = 10,
    seed: int = 0,
) -> list[list[Context]]:
    """Draw, for each latent, contexts of the rows in which it is not active anywhere."""
    sequence, rng = sequences(store), np.random.default_rng(seed)
    drawn = []
    for latent in latents:
        column, quiet = _column(found, latent), []
        for row in rng.permutation(rows)[: 100 * count]:
            context = _context_of(int(row), column, store, sequence, texts)
            if not any(context.values):
                quiet.append(context)
            if len(quiet) == count:
                break
        drawn.append(quiet)
    return drawn


def _column(found: scipy.sparse.csc_array, latent: int) -> dict[int, float]:
    """Return the tokens on which a latent is active, and how much."""
    low, high = found.indptr[latent : latent + 2]
    values = np.abs(found.data[low:high])
    return dict(zip(found.indices[low:high].tolist(), values.tolist(), strict=True))


def _context_of(
    row: int, column: dict[int, float], store: activations.Store, sequence: np.ndarray,
    texts: Sequence[str],
) -> Context:  # fmt: skip
    near = np.arange(max(0, row - AROUND), min(len(sequence), row + AROUND + 1))
    near = near[sequence[near] == sequence[row]]
    return Context(
        tuple(texts[i] for i in store.tokens[near]),
        tuple(column.get(int(i), 0.0) for i in near), int(np.flatnonzero(near == row)[0]),
        int(sequence[row]),
    )  # fmt: skip


def with_logits(
    described: Sequence[Feature], dictionary: np.ndarray, unembedding: np.ndarray,
    texts: Sequence[str],
) -> list[Feature]:  # fmt: skip
    """Add the tokens whose logits an atom changes the most, on the direct way to the output."""
    effects = dictionary[[one.latent for one in described]] @ unembedding.T
    added = []
    for one, effect in zip(described, effects, strict=True):
        order = np.argsort(effect)
        raised, lowered = order[::-1][:NUM_LOGITS], order[:NUM_LOGITS]
        added.append(one._replace(
            raised=tuple(texts[i] for i in raised), lowered=tuple(texts[i] for i in lowered)
        ))  # fmt: skip
    return added


def unembedding(model: activations.LanguageModel) -> np.ndarray | None:
    """Return what makes logits of the residual stream, the weight of the last norm included.

    None without a language head, and of a family whose last norm has a name that is not known.
    """
    head = model.model.get_output_embeddings()
    if head is None:
        return None
    family = model.model.config.model_type
    norm = getattr(model.model.base_model, LAST_NORM.get(family, "norm"), None)
    if norm is None:
        return None
    weight = norm.weight.detach().float().cpu().numpy()
    matrix = head.weight.detach().float().cpu().numpy()
    return matrix * (weight + (family == "gemma"))  # which multiplies by 1 + weight


def write(
    path: pathlib.Path,
    sae: sc.io.Sae,
    store: activations.Store,
    model: activations.LanguageModel,
    title: str,
    *,
    rows: np.ndarray | None = None,
    num_latents: int = 40,
    seed: int = 0,
) -> pathlib.Path:
    """Write the page on latents drawn at random among those that are active at all.

    Args:
      path: of the page.
      sae: of the activations as they are.
      store: the activations, captured from ``model``.
      model: whose tokenizer, and head if it has one, is used.
      title: of the page.
      rows: tokens to encode; None takes those that ``select`` leaves.
      num_latents: to draw.
      seed: of the draws.
    """
    rows = activations.select(store).rows if rows is None else rows
    found = codes(sae, store, rows)
    density = np.diff(found.indptr) / len(rows)
    alive = np.flatnonzero(density)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(alive, min(num_latents, len(alive)), replace=False))
    tokenizer = model.tokenizer
    texts = [tokenizer.decode([i]) for i in range(int(store.tokens.max()) + 1)]
    described = features(chosen, found, store, texts, len(rows), seed=seed)
    matrix = unembedding(model)
    if matrix is not None and matrix.shape[1] == sae.dictionary.shape[1]:
        whole = [tokenizer.decode([i]) for i in range(len(matrix))]
        described = with_logits(described, np.asarray(sae.dictionary), matrix, whole)
    path.write_text(page(described, title, density, len(rows)))
    return path


# --- the page ------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --line: #ddd; --soft: #666;
  --hot: 213, 94, 0; }
@media (prefers-color-scheme: dark) { :root { --ink: #eee; --paper: #161616; --line: #3a3a3a;
  --soft: #aaa; --hot: 255, 140, 50; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 0 auto; max-width: 60rem; padding: 1rem; }
section { border-top: 1px solid var(--line); padding: .8rem 0; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin: .2rem 0; }
h3 { font-size: .85rem; color: var(--soft); margin: .6rem 0 .2rem; font-weight: 600; }
p { margin: .2rem 0; } .context { font: 13px/1.6 ui-monospace, monospace; overflow-wrap: anywhere;
  white-space: pre-wrap; margin: .15rem 0; padding-left: 3.2rem; text-indent: -3.2rem; }
.value { color: var(--soft); display: inline-block; width: 3.2rem; text-indent: 0; }
.context b { font-weight: 700; text-decoration: underline; text-indent: 0; }
.soft { color: var(--soft); } nav { columns: 8rem; font-size: .85rem; }
svg { display: block; } rect { fill: rgb(var(--hot)); }
code { background: rgba(128, 128, 128, .15); padding: 0 .25rem; border-radius: 3px;
  white-space: pre; }
"""


def page(described: Sequence[Feature], title: str, density: np.ndarray, num_tokens: int) -> str:
    """Return the page as HTML that needs nothing else."""
    dead = float(np.mean(density == 0))
    logs = np.log10(density[density > 0])
    spread = np.histogram(logs, 30, (np.log10(1 / num_tokens), 0))[0]
    links = " ".join(f'<a href="#l{one.latent}">{one.latent}</a>' for one in described)
    parts = "".join(_section(one) for one in described)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{html.escape(title)}</h1>"
        f"<p>{len(density):,} latents on {num_tokens:,} tokens; {100 * dead:.1f} % are never "
        f"active. {len(described)} of the others, drawn at random.</p>"
        f"<h3>Density of all that are active, from 1 token in {num_tokens:,} to every token "
        f"(log scale)</h3>{_bars(spread)}<h3>Latents</h3><nav>{links}</nav>{parts}</body></html>\n"
    )


def _section(one: Feature) -> str:
    lists = [("largest values, one document each", one.top),
             ("one context of each tenth of the values, smallest first", one.deciles)]  # fmt: skip
    shown = "".join(
        f"<h3>{label}</h3>{''.join(_context(context, one.largest) for context in contexts)}"
        for label, contexts in lists
    )
    logits = "".join(
        f'<p><span class="soft">{label}</span> '
        f"{' '.join(f'<code>{html.escape(_visible(token))}</code>' for token in tokens)}</p>"
        for label, tokens in (("raises", one.raised), ("lowers", one.lowered))
        if tokens
    )
    return (
        f'<section id="l{one.latent}"><h2>Latent {one.latent}</h2>'
        f'<p class="soft">active on {100 * one.density:.3g} % of tokens, mean {one.mean:.3g}, '
        f"largest {one.largest:.3g}</p>{_bars(one.counts)}{logits}{shown}</section>"
    )


def _context(context: Context, largest: float) -> str:
    words = []
    for place, (token, value) in enumerate(zip(context.tokens, context.values, strict=True)):
        text = html.escape(_visible(token))
        if value:
            strength = 0.15 + 0.6 * min(1.0, value / largest)
            text = f'<span style="background: rgba(var(--hot), {strength:.2f})">{text}</span>'
        words.append(f"<b>{text}</b>" if place == context.center else text)
    value = context.values[context.center]
    return f'<div class="context"><span class="value">{value:.3g}</span>{"".join(words)}</div>'


def _visible(token: str) -> str:
    return token.replace("\n", "↵").replace("\t", "⇥")


def _bars(counts: np.ndarray) -> str:
    high, width = max(1, int(counts.max())), 8
    bars = "".join(
        f'<rect x="{width * i}" y="{40 - 40 * count / high:.1f}" width="{width - 1}" '
        f'height="{40 * count / high:.1f}"><title>{count}</title></rect>'
        for i, count in enumerate(counts.tolist())
    )
    return f'<svg width="{width * len(counts)}" height="40" role="img">{bars}</svg>'
