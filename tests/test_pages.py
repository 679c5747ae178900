"""The numbers that pages quote are those of the tables in docs/results."""

import decimal
import pathlib
import re
import textwrap

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README, REVIEWERS, PERFORMANCE = "README.md", "docs/reviewers.md", "docs/performance.md"
PUBLISHED, MEASURED = (
    f"FLOPs by the {account} account to reach an MCC on the test half"
    for account in ("published", "measured")
)
# Of a page and a table: words of the page with the number in braces, the column, and what tells the
# row: cells, names of columns, lines above the table. Where several rows fit, all have the number.
QUOTES = {
    (README, "pareto"): [
        ("published MCC of {.9667} for", "best MCC", "ITO (Adam on log-codes)"),
        ("for {822} times fewer FLOPs", "saving", "FISTA", PUBLISHED),
        ("minimization gives {.975}.", "MCC at the end",
         "alternating minimization, FISTA + restart"),
    ],
    (REVIEWERS, "unknown_dictionary"): [
        ("coding is +{.104} (", "latent MCC", "sae", "sparse coding less"),
        ("and +{.053} (", "latent MCC", "mlp256", "sparse coding less"),
    ],
    (REVIEWERS, "penalty_pareto"): [
        ("best at .5 (latent MCC {.843} ±", "latent MCC", "sparse coding", "0.5"),
    ],
    (REVIEWERS, "amortisation_gap"): [
        ("it has {.9918} on those", "1,024 signals: train", "MLP, 1 hidden 256"),
        ("and {.9502} on others", "test", "MLP, 1 hidden 256"),
        ("latent MCC of {.880}, where", "MCC, test half", "one layer"),
        ("steps of FISTA have {.9925}", "MCC, test half", "FISTA 1024"),
    ],
    (REVIEWERS, "interpretability_statistics"): [("Welch p = {.041},", "published", "p, Welch")],
    (REVIEWERS, "theory"): [
        ("distance to {.705} and", "step 1", "arora", "256", "0.3"),
        ("and {.712} of itself", "step 1", "nguyen", "256", "0.3"),
        ("supports found is {1.00}, .96", "h = 2^20, n = 100", "0.3", "ε"),
        ("p = .4 ({.00} with", "h = 2^20, n = 100", "0.4", "ε"),
        ("h = 2^20, {1.00}, .83", "h = 2^23, n = 20", "0.4", "ε"),
        ("no bias finds any ({.00}) from", "h = 2^23, n = 20", "0.5", "best"),
        ("with the 16 atoms is {.631},", "dictionary MCC", "8", "0.1"),
    ],
    (REVIEWERS, "decomposition"): [
        (
            "the ReLU SAE's gap of {.352} ±", "gap", "ReLU SAE",
            "The gap from an SAE to the true dictionary with FISTA",
        ),
        ("TopK {.700} ±", "own encoder", "TopK SAE"),
        ("alternating minimization {.963} ±", "FISTA", "alternating minimization"),
    ],
    (REVIEWERS, "pareto"): [
        ("256 has {.642} ±", "MCC at the end", "MLP, 256 hidden"),
        ("by its encoder, {.591} ±", "MCC at the end", "SAE + ITO"),
        ("costs {4.4e9} FLOPs", "MCC 0.9667", "LISTA"),
        ("24 steps of FISTA {1.55e7}.", "MCC 0.9667", "FISTA", MEASURED),
    ],
    (REVIEWERS, "learned_ista"): [
        ("have an error of {.080}, which", "LISTA", "100", "3"),
        ("takes ISTA {16} steps", "ISTA steps to LISTA's error", "100", "3"),
        ("and FISTA {9} (n", "FISTA steps", "100", "3"),
    ],
    (REVIEWERS, "language_model"): [
        ("encoder has R² {.728} on", "R2", "TopK", "encoder"),
        ("(3 times) and {.839} and", "R2", "learned", "OMP 52, leave-one-out, refit"),
    ],
    (REVIEWERS, "language_model_penalized"): [
        ("training): JumpReLU {.632} and", "R2", "JumpReLU", "encoder"),
        ("gated {.645} and", "R2", "gated", "encoder"),
    ],
    (REVIEWERS, "language_model_layer_9"): [
        ("encoder has R² {.766},", "R2", "TopK", "encoder"),
        ("{.843} by OMP and .865", "R2", "learned", "OMP"),
    ],
    (REVIEWERS, "language_model_minilm"): [
        ("384 dimensions: {.742},", "R2", "TopK", "encoder"),
        (".742, {.832} and", "R2", "TopK", "OMP"),
        ("learned {.868} and", "R2", "learned", "OMP"),
    ],
    (REVIEWERS, "zipf"): [
        ("SAE {.733}, ITO", "step 19,900", "sae"),
        ("by the lasso {.718} ±", "step 39,500", "learned + lasso"),
    ],
    (REVIEWERS, "realistic_scale"): [
        ("Pearson of {.865} (one", "Pearson", "trained with codes: one layer"),
        (".933 after 10 steps and {.998} after", "Pearson", "true atoms: FISTA, 30 steps", "3"),
        ("latent MCC of {.802}, OMP", "MCC", "TopK SAE: own encoder", "3"),
        ("of the signals, {.999} (", "MCC", "learn_dictionary: OMP"),
        ("{.262} by OMP in the", "MCC", "online: OMP", "1"),
    ],
    (REVIEWERS, "probing_minilm"): [
        ("in its atoms {.604} and", "AUC, k = 1", "TopK-0", "OMP"),
        ("an area of .632 and {.699},", "AUC, k = 16", "TopK-0", "encoder"),
    ],
    (REVIEWERS, "structured_latents"): [
        ("p = .065), Zipf ({.746} ±", "learned + lasso", "Zipf (the authors')"),
        ("TopK by +{.149} (", "latent MCC", "TopK SAE + lasso", "hierarchy"),
        ("are at {.557} (SAE),", "latent MCC", "SAE, as published", "5.7e+10"),
        ("{.603} (MLP) in the mean", "latent MCC", "MLP32, as published", "2.1e+11"),
        ("learned dictionaries at {.838},", "latent MCC", "learned + lasso", "1.4e+10"),
    ],
    (REVIEWERS, "structured_latents_large"): [
        ("latent MCC of {.826} by", "latent MCC", "learned + lasso", "3.5e+11"),
        ("encoder and {.754} by", "latent MCC", "TopK SAE + lasso", "4.2e+11"),
        (".828 against {.818})", "TopK SAE + lasso", "Zipf (the authors')"),
        ("pursued codes, three passes with a working set of 32 atoms {.9804} for",
         "lasso, lasso, lasso", "exactly 3 of 16 (the paper)"),
        ("by {.194} for correlated", "latent MCC", "TopK SAE + lasso", "correlated firing"),
    ],
    (REVIEWERS, "synth_sae_bench"): [
        ("F1 {.93} by the lasso", "F1", "true atoms", "lasso"),
        ("at once {.68}),", "F1", "learned", "250,000", "lasso"),
        ("{.12} with those of a TopK", "F1", "TopK", "500,000", "lasso"),
    ],
    (REVIEWERS, "synth_sae_bench_groups"): [
        ("{.84} with atoms learned from 1M", "F1", "in groups", "1,048,576", "lasso"),
        ("FLOPs; {.78} from 250,000", "F1", "in groups", "250,000", "lasso"),
    ],
    (REVIEWERS, "sample_complexity"): [("are recovered ({.98}),", "MCC in", "10,000")],
    (REVIEWERS, "top_k"): [
        ("latent MCC ({.839} of", "penalty 0.5", "Latent MCC", "(a) k largest", "3"),
    ],
    (PERFORMANCE, "waits"): [
        ("{5.6} s at 16,384 atoms (the gradient", "wide: 768 x 16,384", "its gradient"),
        ("takes {1.2} ms more than", "eager - jitted", "tolerance=1e-3"),
        ("TopK step takes 360 ms here, {38} %", "of the limit", "TopK, 16,384 latents, K = 64"),
        ("reserves {277} MiB,", "temporaries, MiB", "TopK, 16,384 latents, K = 64"),
    ],
    (PERFORMANCE, "benchmarks_many"): [
        ("we take {4.7}, 5.6", "sparse_encode / this, by instance", "lasso, scale a, many: M = 8,"
         " N = 16, K = 3, 65536 signals, gap <= 0.001", "SPAMS, 2 threads"),
    ],
    (REVIEWERS, "flop_audit"): [("of sparse coding {45} times", "ratio", "sparse coding, step")],
}  # fmt: skip
CASES = [(*where, *quote) for where, quotes in QUOTES.items() for quote in quotes]


def cells(text, column, labels):
    """Return the column's cells in the rows that have all labels, of all tables of a text."""
    found, lines = [], text.splitlines()
    for number, line in enumerate(lines):
        if not re.fullmatch(r"-+( +-+)+", line):
            continue
        spans = [match.span() for match in re.finditer("-+", line)]

        def split(row, spans=spans):
            return [row[first:last].strip() for first, last in spans]

        names, above = split(lines[number - 1]), lines[: number - 1][::-1]
        above = above[: above.index("")] if "" in above else above
        for row in lines[number + 1 :]:
            if not row:
                break
            if column in names and {*labels} <= {*split(row), *names, *above}:
                found.append(split(row)[names.index(column)])
    return found


def says(cell, quote):
    """Tell whether the number that a cell begins with rounds to a quoted one."""
    quoted = decimal.Decimal(quote)
    match = re.match(r"[-+]?[\d,]*\.?\d+(e[-+]?\d+)?", cell)
    half = decimal.Decimal((0, (5,), quoted.as_tuple().exponent - 1))
    return bool(match) and abs(decimal.Decimal(match[0].replace(",", "")) - quoted) <= half


@pytest.mark.parametrize("case", CASES, ids=[f"{case[0]}: {case[2]}" for case in CASES])
def test_a_quoted_number_is_that_of_the_table(case):
    page, table, words, column, *labels = case
    quote = re.search(r"\{(.+)\}", words)[1]
    assert words.replace(f"{{{quote}}}", quote) in " ".join((ROOT / page).read_text().split())
    found = cells((ROOT / "docs" / "results" / f"{table}.txt").read_text(), column, labels)
    assert found and all(says(cell, quote) for cell in found), (table, column, found)


def test_cells_are_found_by_column_and_labels_and_compared_to_the_digits_of_the_quote():
    text = """
        first
        name         x  y
        -------  -----  -
        one two  1,234

        b        x
        -------  -
        one two  5
    """
    text = textwrap.dedent(text)
    assert cells(text, "x", ["one two"]) == ["1,234", "5"]
    assert cells(text, "x", ["one two", "first"]) == cells(text, "x", ["name", "one two"])
    assert cells(text, "x", ["one two", "b"]) == ["5"] and cells(text, "y", ["one two"]) == [""]
    assert not cells(text, "x", ["one"]) and not cells(text, "z", ["one two"])
    assert says("0.7847±0.1", ".78") and not says("0.7847", ".79") and not says("-", "0")
    assert says("1.55e+07 (24 st.)", "1.55e7") and not says("1.56e+07", "1.55e7")
    assert says("1,036.3x", "1036") and not says("1,036.3x", "1036.4")


def answers():
    """Return each question of the reviewers' page, its answer, and the tables that are linked."""
    names = []
    for line in (ROOT / REVIEWERS).read_text().splitlines():
        cells = re.split(r"(?<!\\)\|", line)
        if line.startswith("| ") and cells[1].strip() != "question":
            above = names if "the same" in cells[3] else []
            names = above + re.findall(r"results/(\w+\.txt)", line)
            tables = [(ROOT / "docs" / "results" / name).read_text() for name in names]
            if tables:
                yield cells[1].strip(), cells[2], "\n".join(tables)


def untold(answer, tables):
    """Return the decimals of an answer, percentages too, that no number of the tables rounds to."""
    pattern = r"\d[\d,]*\.?\d*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?"
    known = [decimal.Decimal(n.replace(",", "")) for n in re.findall(pattern, tables)]
    missing = []
    for quote, percent in re.findall(r"(?<![\w.])(\d*\.\d+(?:e[-+]?\d+)?)( %)?", answer):
        wanted = decimal.Decimal(quote)
        half = decimal.Decimal((0, (5,), wanted.as_tuple().exponent - 1))
        factors = [1] + ([100] if percent else []) + [decimal.Decimal("1e-3")] * ("e-3" in quote)
        if not any(abs(n * factor - wanted) <= half for n in known for factor in factors):
            missing.append(quote)
    return missing


def test_every_decimal_of_an_answer_is_in_a_table_that_it_links_to():
    """Weaker than a quote above, which names its cell, but it holds for all of them."""
    found = {question: untold(answer, tables) for question, answer, tables in answers()}
    assert len(found) > 25 and not {q: missing for q, missing in found.items() if missing}
    assert untold("of .397 and 2.5 %, 12.3e-3", "0.396±0.049 0.0251 12.3") == [".397"]
