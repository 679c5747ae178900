"""The site: ``make docs`` builds it into ``site/``; neither building nor reading needs a network."""

import os
import re

# The tutorial on many devices simulates eight; JAX reads this when the first array is made.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.parsers import Parser

import sparsecode_jax

project = "sparsecode_jax"
release = sparsecode_jax.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext", ".txt": "table"}
exclude_patterns = ["templates", "tutorials"]
templates_path = ["templates"]
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!sparsecode_jax).*")]  # other packages' names are not links

html_theme = "furo"
html_title = f"sparsecode_jax {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_math_renderer = "mathml"
myst_heading_anchors = 3
toc_object_entries_show_parents = "hide"

autodoc_member_order = "groupwise"
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}
autodoc_typehints_format = "short"
maximum_signature_line_length = 80
napoleon_use_ivar = True
napoleon_use_rtype = False

sphinx_gallery_conf = {
    "examples_dirs": ["tutorials", "../examples"],
    "gallery_dirs": ["generated/tutorials", "generated/gallery"],
    "filename_pattern": r"/(?!many_hosts)\w+\.py",  # that one needs a file and a cluster
    "within_subsection_order": "FileNameSortKey",
    "capture_repr": (),
    "download_all_examples": False,
    "write_computation_times": False,
    "min_reported_time": 600,
    "show_signature": False,
    "reset_modules": ("matplotlib",),
}


def mathml(formula: str, display: str) -> str:
    """Turn LaTeX into MathML, which browsers render by themselves."""
    text = formula.replace(r"\arg", r"\operatorname{arg}")
    if display == "block":
        text = re.sub(r"\\(min|max)(?=_)", r"\\\1\\limits", text)
    out = convert(text, display=display)
    if "\\" in out:
        raise ValueError(f"a command that latex2mathml does not know: {formula}")
    return out


def visit_inline(writer, node):
    """Write a formula of a line of text."""
    writer.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def visit_block(writer, node):
    """Write a formula that stands by itself."""
    writer.body.append(f'<div class="math">{mathml(node.astext(), "block")}</div>\n')
    raise nodes.SkipNode


class Table(Parser):
    """A file of docs/results as a page: its name and its text as it is."""

    supported = ("table",)

    def parse(self, inputstring, document):
        """Fill the document."""
        self.env.metadata[self.env.docname]["orphan"] = True  # docs/results/README.md links to all
        name = os.path.basename(self.env.docname) + ".txt"
        page = nodes.section("", nodes.title(name, name), ids=[nodes.make_id(name)])
        page += nodes.literal_block(inputstring, inputstring, language="none")
        document += page


def skip(app, what, name, obj, skipped, options):
    """Leave out the fields of named tuples, which their docstrings describe."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    """Register what is above."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.add_source_parser(Table)
    app.connect("autodoc-skip-member", skip)
