"""How Sphinx builds these pages: no network while building, none while reading."""

import io
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.util.nodes import make_refnode

import captum_masking

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import addresses  # noqa: E402
import markdown  # noqa: E402
import tables  # noqa: E402

project = "captum_masking"
author = "captum_masking contributors"
copyright = "2026, captum_masking contributors"  # noqa: A001 (the name Sphinx asks for)
release = version = captum_masking.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "tutorials/*.ipynb", "tutorials/*.py", "tutorials/*.md5"]

add_module_names = False  # the heading above says the module
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # torch's and Captum's own words stay on their own pages
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # a NamedTuple's fields are listed once
napoleon_custom_sections = ["Source"]
nitpicky = True  # a link to a name that has gone is a warning, ours or another project's
nitpick_ignore_regex = [
    # What our own signatures abbreviate, and libraries whose names have no page that we know.
    ("py:.*", r"[A-Za-z_ ]+|PerInput\.__call__|(accelerate|torchmetrics|lightning|torch\._).*"),
    ("py:.*", r"captum\._utils\..*|torch\.nn\.modules\.batchnorm\._BatchNorm"),
    ("py:class", r"dict\[str|torch\.Size|pandas\..*"),
    # Internal classes behind public functions.
    ("py:class", r"captum_masking\.(parts|metrics)\..*(_[A-Z]\w+|Posed|Relabeled)"),
    ("py:class", r"captum_masking\._base\.text\.Named"),
    ("py:class", r"captum_masking\.methods\..*(Relative|OfLayer)"),
]
python_maximum_signature_line_length = 88
intersphinx_mapping = addresses.write(HERE / "_build" / "inventories")

# ``-D plot_gallery=0`` builds the pages of the tutorials without running them.
sphinx_gallery_conf = {
    "examples_dirs": "../tutorials",
    "gallery_dirs": "tutorials",
    "filename_pattern": r"/\d\d_",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "write_computation_times": False,
    "show_signature": False,
    "download_all_examples": False,
    "plot_gallery": "True",
    "ignore_repr_types": r"torch\._C\.Generator|matplotlib\.",
    "backreferences_dir": None,
}
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_line_continuation_character = "\\"

html_theme = "furo"
html_title = "captum_masking"
html_static_path = ["_static"]
html_css_files = ["own.css"]
html_theme_options = {  # no fonts, scripts or pictures of others
    "light_css_variables": {
        "color-brand-primary": "#7a3e12",
        "color-brand-content": "#8a4513",
        "color-brand-visited": "#6b4a86",
    },
    "dark_css_variables": {
        "color-brand-primary": "#e5a86f",
        "color-brand-content": "#e5a86f",
        "color-brand-visited": "#b79ad1",
    },
}
html_math_renderer = "mathml"
html_show_sourcelink = False


def whole_docstring(docstring: GoogleDocstring) -> tuple[str, list[str]]:
    """Read a property's docstring: types stand in signatures only, so a colon is a colon."""
    lines = [docstring._lines.next(), *docstring._dedent(docstring._consume_to_end())]
    return "", GoogleDocstring(lines, docstring._config).lines()


GoogleDocstring._consume_inline_attribute = whole_docstring


class CommandHelp(Directive):
    """``.. command-help:: train`` shows what ``captum-masking train --help`` prints."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the help of a command as a literal block."""
        from captum_masking.cli.main import main

        os.environ.update(COLUMNS="88")  # click wraps by it
        printed = io.StringIO()
        with redirect_stdout(printed):
            main([*self.arguments, "--help"])
        text = printed.getvalue().rstrip()
        return [nodes.literal_block(text, text, language="none")]


class Markdown(Directive):
    """``.. markdown:: ../CHANGELOG.md`` shows a file of the project as a part of the page."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Put the converted file in place of the directive."""
        text = (HERE / self.arguments[0]).read_text(encoding="utf-8")
        self.state_machine.insert_input(markdown.to_rst(text).splitlines(), self.arguments[0])
        return []


class Benchmark(Directive):
    """``.. benchmark:: step`` shows what ``benchmarks/step.py`` measured, from its JSON."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Put the page's table and its command in place of the directive."""
        text = tables.TABLES[self.arguments[0]]()
        self.state_machine.insert_input(text.splitlines(), self.arguments[0])
        return []


def measured(role: str, raw: str, text: str, *rest: Any) -> tuple[list[nodes.Node], list[Any]]:
    """Show one figure, ``:measured:`study joint masked_out```, from the JSON of a benchmark."""
    return [nodes.Text(tables.figure(text))], []


def visit_math(translator: nodes.NodeVisitor, node: nodes.math) -> None:
    """Write an inline formula as MathML, which browsers draw without a script."""
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def visit_math_block(translator: nodes.NodeVisitor, node: nodes.math_block) -> None:
    """Write a displayed formula as MathML."""
    formula = tex2mathml(node.astext()).replace("<math ", '<math display="block" ', 1)
    translator.body.append(f'<div class="math">{formula}</div>')
    raise nodes.SkipNode


def find_shorter_name(app: Sphinx, env: Any, node: nodes.Element, content: nodes.Element) -> Any:
    """Let ``captum_masking.metrics.om`` lead to where ``om`` is documented, a module deeper.

    And annotations, which name the module where a class is defined, lead to the front door.
    """
    folder, _, name = node.get("reftarget", "").rpartition(".")
    objects = env.domains.python_domain.objects
    front = f"captum_masking.{name}"
    deeper = {
        (entry.docname, entry.node_id)
        for full, entry in objects.items()
        if full == front or (full.startswith(f"{folder}.") and full.endswith(f".{name}"))
    }
    if not folder.startswith("captum_masking") or len(deeper) != 1:
        return None
    [(page, anchor)] = deeper
    return make_refnode(app.builder, node["refdoc"], page, anchor, content, anchor)


def setup(app: Sphinx) -> None:
    """Tell Sphinx of the directives, the figures and the formulas."""
    app.add_directive("command-help", CommandHelp)
    app.add_directive("benchmark", Benchmark)
    app.add_directive("markdown", Markdown)
    app.add_role("measured", measured)
    app.connect("missing-reference", find_shorter_name)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
