"""The site: ``make docs`` builds it into ``site/``, without a network to build or to read it."""

import os
import re
import sys

# The tutorial on many devices simulates eight; JAX reads this when the first array is made.
# Compiling takes most of the time and no page reports seconds: optimize as little as can be.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true " + os.environ.get("XLA_FLAGS", "")
)

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.parsers import Parser
from sphinx.pycode import ModuleAnalyzer

import sparsecode_jax

project = "sparsecode_jax"
release = sparsecode_jax.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext", ".txt": "table"}
exclude_patterns = ["templates", "tutorials"]
templates_path = ["templates"]
nitpicky = True
nitpick_ignore_regex = [  # names of other packages and of private parts are no links
    (r"py:.*", r"(?!sparsecode_jax).*|sparsecode_jax\.(.+\.)?(_\w+|flops\.table)\..*"),
]

html_theme = "furo"
html_title = f"sparsecode_jax {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False
html_math_renderer = "mathml"
myst_heading_anchors = 3
toc_object_entries_show_parents = "hide"

autodoc_preserve_defaults = True
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}
autodoc_typehints_format = "short"
maximum_signature_line_length = 80
napoleon_use_ivar = True
napoleon_attr_annotations = False
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


for part in sparsecode_jax.__all__:
    getattr(sparsecode_jax, part)  # is imported when it is asked for

# Overloads are for type checkers: readers see the one signature with everything.
fronts = ModuleAnalyzer.for_module("sparsecode_jax.solvers._core")
fronts.analyze()
fronts.overloads.clear()

HOMES = {  # where a public class or function is defined, and where it is documented
    f"{getattr(module, name).__module__}.{name}": f"{home}.{name}"
    for home, module in list(sys.modules.items())
    if re.fullmatch(r"sparsecode_jax(\.[a-z]\w*)*", home)
    for name in getattr(module, "__all__", ())
    if home != getattr(getattr(module, name), "__module__", home)
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
        env = document.settings.env
        env.metadata[env.docname]["orphan"] = True  # docs/results/README.md links to all
        name = os.path.basename(env.docname) + ".txt"
        page = nodes.section("", nodes.title(name, name), ids=[nodes.make_id(name)])
        page += nodes.literal_block(inputstring, inputstring, language="none")
        document += page


def skip(app, what, name, obj, skipped, options):
    """Leave out the fields of named tuples, which their docstrings describe."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def shorten(app, what, name, obj, options, signature, returned):
    """Write type aliases by their names; Sphinx 9.0 leaves its own mark on them in unions."""
    return signature and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", signature), returned


def resolve(app, env, node, content):
    """Link what is named by the file that defines it to the public module that documents it."""
    name = HOMES.get(node.get("reftarget"))
    if name is None or node.get("refdomain") != "py":
        return None
    python = env.get_domain("py")
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, content)


def setup(app):
    """Register what is above."""
    app.connect("autodoc-process-signature", shorten)
    app.connect("missing-reference", resolve)
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.add_source_parser(Table)
    app.connect("autodoc-skip-member", skip)
