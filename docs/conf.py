"""How Sphinx builds these pages: no network while building, none while reading."""

import io
import os
import sys
from contextlib import redirect_stdout, suppress

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

import captum_masking

sys.path.insert(0, os.path.dirname(__file__))
import tables  # noqa: E402

project = "captum_masking"
author = "captum_masking contributors"
copyright = "2026, captum_masking contributors"  # noqa: A001 (the name Sphinx asks for)
release = version = captum_masking.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # torch's and Captum's own words stay on their own pages
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # a NamedTuple's fields are listed once
napoleon_custom_sections = ["Source"]
nitpicky = True  # a link to a name of ours that has gone is a warning; others' names have no page
nitpick_ignore_regex = [
    ("py:.*", r"(?!captum_masking\.).*"),
    ("py:class", r"captum_masking\.engine\.Module"),  # a type variable has no page
]
python_maximum_signature_line_length = 88

html_theme = "alabaster"
html_theme_options = {
    "description": "Learned saliency masks for Captum",
    "code_font_size": "0.8em",
    "page_width": "1120px",
    "sidebar_width": "240px",
    "fixed_sidebar": True,
}
html_math_renderer = "mathml"
html_show_sourcelink = False


class CommandHelp(Directive):
    """``.. command-help:: train`` shows what ``captum-masking train --help`` prints."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Run the command's parser and return its help as a literal block."""
        from captum_masking.cli import main

        os.environ.update(COLUMNS="88", NO_COLOR="1")  # argparse wraps and colours by these
        printed = io.StringIO()
        with redirect_stdout(printed), suppress(SystemExit):
            main([*self.arguments, "--help"])
        text = printed.getvalue().rstrip()
        return [nodes.literal_block(text, text, language="none")]


class Benchmark(Directive):
    """``.. benchmark:: step`` shows what ``benchmarks/step.py`` measured, from its JSON."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Put the page's table and its command in place of the directive."""
        text = tables.TABLES[self.arguments[0]]()
        self.state_machine.insert_input(text.splitlines(), self.arguments[0])
        return []


def visit_math(translator: nodes.NodeVisitor, node: nodes.math) -> None:
    """Write an inline formula as MathML, which browsers draw without a script."""
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def visit_math_block(translator: nodes.NodeVisitor, node: nodes.math_block) -> None:
    """Write a displayed formula as MathML."""
    formula = tex2mathml(node.astext()).replace("<math ", '<math display="block" ', 1)
    translator.body.append(f'<div class="math">{formula}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Tell Sphinx of the directive and of the formulas."""
    app.add_directive("command-help", CommandHelp)
    app.add_directive("benchmark", Benchmark)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
