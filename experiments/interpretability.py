"""Judge by questions and answers whether a latent is what an explanation of it says.

The protocol of detection and fuzzing (Paulo, Mallen, Juang and Belrose, 2024, arXiv 2410.13928),
with any answerer: a function from a question to an answer, such as a local model, a person, or a
service. From the largest contexts of a latent the answerer writes an explanation; then, told only
that, it says which of other texts the latent is active in (detection) and in which of them the
marked tokens are those it is active on (fuzzing). Texts with the latent come from each tenth of its
values, because the largest alone look more interpretable than a latent is; those without it are
drawn from all tokens. Scores are balanced accuracies, of which chance is .5. How many answers could
not be read stands beside each mean.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

import sparsecode_jax as sc
from experiments.feature_report import Context, Feature

Answer = Callable[[str], str]

EXPLAIN = """Each text below has words between << and >> on which one feature of a language model is
active. Say in one sentence, as exactly as you can, what those words have in common.

{texts}"""
DETECT = """A feature of a language model is active on: {explanation}
In which of these texts is it active anywhere? Answer with their numbers, separated by commas, or
with the word none.

{texts}"""
FUZZ = """A feature of a language model is active on: {explanation}
In some of these texts the words between << and >> are those on which it is active, in others they
are other words. In which texts are they marked rightly? Answer with their numbers, separated by
commas, or with the word none.

{texts}"""


class Judged(NamedTuple):
    """What the questions on one latent gave; NaN where an answer could not be read.

    Attributes:
      latent: its number.
      explanation: the answerer's.
      detection: balanced accuracy, chance .5.
      fuzzing: balanced accuracy, chance .5.
      found: for each tenth of the values, whether its text was detected, (10,).
      unreadable: how many of the two answers could not be read.
    """

    latent: int
    explanation: str
    detection: float
    fuzzing: float
    found: np.ndarray
    unreadable: int


def judge(
    answer: Answer, described: Sequence[Feature], without: Sequence[Sequence[Context]], *, seed: int
) -> list[Judged]:
    """Ask for an explanation of each latent, and what follows from it.

    Args:
      answer: the answerer.
      described: latents, from :func:`~experiments.feature_report.features`.
      without: for each of them, contexts in which it is not active anywhere.
      seed: of the order of texts and of the marks that are wrong.
    """
    rng = np.random.default_rng(seed)
    asked = []
    for one, quiet in zip(described, without, strict=True):  # before the first question
        shown_of = {context.sequence for context in one.top}
        places = [i for i, x in enumerate(one.deciles) if x.sequence not in shown_of]
        if len(places) < 2 or not quiet:
            raise ValueError(
                f"judge: latent {one.latent} has {len(places)} texts with it, besides those that "
                f"the explanation is made of, and {len(quiet)} without; at least 2 and 1 are "
                "expected. Leave out latents that are active nearly never, or nearly everywhere."
            )
        asked.append(places)
    judged = []
    for one, quiet, places in zip(described, without, asked, strict=True):
        shown = "\n".join(f"- {marked(context)}" for context in one.top)
        explanation = " ".join(answer(EXPLAIN.format(texts=shown)).split())
        active = [one.deciles[i] for i in places]
        said, truth = _ask(
            answer, DETECT, explanation, [plain(x) for x in active], [plain(x) for x in quiet], rng
        )
        found = np.full(10, np.nan)
        if said is not None:
            found[places] = said[: len(active)]
        order = rng.permutation(len(active))  # of each text one of the two is shown
        right = [active[i] for i in order[: len(order) // 2]]
        wrong = [_moved(active[i], rng) for i in order[len(order) // 2 :]]
        fuzzed, correct = _ask(
            answer, FUZZ, explanation, [marked(x) for x in right],
            [marked(x) for x in wrong if x is not None], rng,
        )  # fmt: skip
        judged.append(Judged(
            one.latent, explanation, _score(said, truth), _score(fuzzed, correct), found,
            (said is None) + (fuzzed is None),
        ))  # fmt: skip
    return judged


def _ask(
    answer: Answer, question: str, explanation: str, yes: Sequence[str], no: Sequence[str],
    rng: np.random.Generator,
) -> tuple[np.ndarray | None, np.ndarray]:  # fmt: skip
    """Ask which texts are the ones meant; return what was said of each, and what is true."""
    texts, truth = [*yes, *no], np.arange(len(yes) + len(no)) < len(yes)
    order = rng.permutation(len(texts))
    listed = "\n".join(f"{number}. {texts[i]}" for number, i in enumerate(order, 1))
    numbers = parsed(answer(question.format(explanation=explanation, texts=listed)), len(texts))
    if numbers is None:
        return None, truth
    said = np.zeros(len(texts), bool)
    said[[order[number - 1] for number in numbers]] = True
    return said, truth


def parsed(text: str, count: int) -> list[int] | None:
    """Return the numbers in an answer, none for "none", None if it cannot be read."""
    said = text.strip().rstrip(".").lower()
    if said == "none":
        return []
    if not re.fullmatch(r"\d+(\s*(,|and|, and)\s*\d+)*", said):
        return None
    numbers = sorted({int(found) for found in re.findall(r"\d+", said)})
    return numbers if numbers[0] >= 1 and numbers[-1] <= count else None


def _score(said: np.ndarray | None, truth: np.ndarray) -> float:
    if said is None or truth.all() or not truth.any():
        return float("nan")
    return float((np.mean(said[truth]) + np.mean(~said[~truth])) / 2)


def plain(context: Context) -> str:
    """Return the words of a context."""
    return " ".join("".join(context.tokens).split())


def marked(context: Context) -> str:
    """Return the words of a context, those on which the latent is active between << and >>."""
    text = ""
    active = [value > 0 for value in context.values]
    for i, token in enumerate(context.tokens):
        before, after = i > 0 and active[i - 1], i + 1 < len(active) and active[i + 1]
        text += ("<<" if active[i] and not before else "") + token
        text += ">>" if active[i] and not after else ""
    return " ".join(text.split())


def _moved(context: Context, rng: np.random.Generator) -> Context | None:
    """Return a context with as many marks on tokens that are not active; None without room."""
    values = np.asarray(context.values)
    free, count = np.flatnonzero(values == 0), int(np.sum(values > 0))
    if len(free) < count:
        return None
    moved = np.zeros(len(values))
    moved[rng.choice(free, count, replace=False)] = 1.0
    return context._replace(values=tuple(moved))


def report(judged: dict[str, Sequence[Judged]]) -> str:
    """Write a row a dictionary with intervals over its latents, and compare each pair.

    Latents of different dictionaries are independent samples; p by permutation, after Holm.
    """
    lines, kinds = [], ("detection", "fuzzing")
    for name, latents in judged.items():
        cells = []
        for kind in kinds:
            values = np.asarray([getattr(one, kind) for one in latents], float)
            good = values[np.isfinite(values)]
            found = sc.statistics.bootstrap_interval(good, seed=0)
            cells.append(
                f"{kind} {found.estimate:.3f} ({found.low:.3f} to {found.high:.3f}) of {len(good)}"
            )
        unreadable = sum(one.unreadable for one in latents)
        cells.append(f"{unreadable} of {2 * len(latents)} answers unreadable")
        tenths = np.transpose([one.found for one in latents])
        known = [tenth[np.isfinite(tenth)] for tenth in tenths]
        by = " ".join(f"{np.mean(tenth):.2f}" if len(tenth) else "-" for tenth in known)
        lines.append(f"{name}: {'; '.join(cells)}; detected by tenth of the values: {by}")
    names = list(judged)
    pairs = [(a, b, kind) for i, a in enumerate(names) for b in names[i + 1 :] for kind in kinds]
    groups = [
        [[getattr(one, kind) for one in judged[x] if np.isfinite(getattr(one, kind))]
         for x in (a, b)]
        for a, b, kind in pairs
    ]  # fmt: skip
    compared = [sc.statistics.compare_groups(*group) for group in groups]
    corrected: Sequence[float] = ()
    if compared:
        corrected = sc.statistics.holm([one.p_permutation for one in compared]).tolist()
    for (a, b, kind), one, p in zip(pairs, compared, corrected, strict=True):
        lines.append(
            f"{a} - {b}, {kind}: {one.difference.estimate:+.3f} ({one.difference.low:+.3f} to "
            f"{one.difference.high:+.3f}), Hedges' g {one.effect_size:+.2f}, p {p:.2g}"
        )
    return "\n".join(lines) + "\n"
