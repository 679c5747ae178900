"""Build the API reference from the docstrings: ``python docs/build_api.py [folder]``.

pdoc renders Google sections and most roles. This turns formulas into what MathJax reads and
Markdown leaves alone, references into names that pdoc links, and examples into code blocks.
"""

import inspect
import re
import sys
import textwrap
import typing
from pathlib import Path
from typing import Any

import pdoc
import pdoc.doc
import pdoc.docstrings
import pdoc.render

import sparsecode_jax
from sparsecode_jax.types import ArrayLike

PUBLIC = {f"sparsecode_jax.types.{x}": f"sparsecode_jax.{x}" for x in sparsecode_jax.__all__}


def formula(text: str) -> str:
    """Write a formula in character references, which Markdown does not change."""
    text = " ".join(text.split())
    return "".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in text)


def markdown(text: str) -> str:
    """Turn the reStructuredText of one docstring into Markdown; Google sections stay."""
    block = r"^\.\. math::(.*(?:\n(?: +.*)?(?=\n))*)"
    text = re.sub(block, lambda m: formula(rf"\[ {m[1]} \]") + "\n", text, flags=re.MULTILINE)
    text = re.sub(r":math:`(.+?)`", lambda m: formula(rf"\( {m[1]} \)"), text, flags=re.DOTALL)

    def reference(match: re.Match) -> str:
        name = match[2].removeprefix("~")
        return f"`{PUBLIC.get(name, name)}{'()' if match[1] == 'func' else ''}`"

    text = re.sub(r":(class|func|mod):`([^`]+)`", reference, text)
    text = re.sub(r"^Alias for field number \d+$", "", text)

    def example(match: re.Match) -> str:
        return f"Example:\n  ```python\n{textwrap.indent(textwrap.dedent(match[1]), '  ')}\n  ```"

    return re.sub(r"^Example:\n((?: +.*(?:\n|\Z)|\n(?= ))+)", example, text, flags=re.MULTILINE)


def resolve_fields(module: object) -> None:
    """Give the constructors of a module's named tuples types where they have forward references."""
    for value in vars(module).values():
        if isinstance(value, type) and hasattr(value, "_fields"):
            value.__new__.__annotations__ = typing.get_type_hints(value)


def annotation(value: Any, *given: Any, _plain: Any = inspect.formatannotation) -> str:
    """Write a type by the names that the docstrings use."""
    for named, name in ((ArrayLike, "ArrayLike"), (ArrayLike | None, "ArrayLike | None")):
        if value == named:
            return name
    return _plain(value, *given).replace("jax.jaxlib._jax.Array", "jax.Array")


def build(folder: Path) -> None:
    """Write the reference, one page a public module."""
    for name in sparsecode_jax.__all__:
        resolve_fields(getattr(sparsecode_jax, name))
    resolve_fields(sparsecode_jax)
    inspect.formatannotation = pdoc.doc.formatannotation = annotation
    converted = pdoc.docstrings.rst
    pdoc.docstrings.rst = lambda text, source: converted(markdown(text), source)
    pdoc.render.configure(docformat="google", math=True, show_source=False)
    pdoc.pdoc("sparsecode_jax", r"!sparsecode_jax\.\w+\.", output_directory=folder)


if __name__ == "__main__":
    build(Path(sys.argv[1] if len(sys.argv) > 1 else "site"))
