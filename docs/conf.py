"""Sphinx configuration: MyST pages, numpydoc API, warnings are errors."""

from __future__ import annotations

import re

import scidyn

project = "scidyn"
author = "The scidyn developers"
copyright = "2026, The scidyn developers"
version = release = scidyn.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_copybutton",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = "scidyn"
html_static_path = ["_static"]
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
}


def _plain_stars(text: str) -> str:
    """Shapes are written ``(*batch, state)``; outside literals reST would take the star for emphasis."""
    parts = re.split(r"(``.*?``|:math:`.*?`|`[^`]*`)", text)
    parts[0] = re.sub(r"^(\s*[A-Z])\. ", r"\1\\. ", parts[0])  # an author's initial is no item of a list
    return "".join(part if k % 2 else re.sub(r"(?<![\\*\w])\*(?=\w)", r"\\*", part) for k, part in enumerate(parts))


def _escape_shapes(app, what, name, obj, options, lines) -> None:
    lines[:] = [line if line.lstrip().startswith((">>>", "...")) else _plain_stars(line) for line in lines]


def setup(app) -> None:
    """Run before numpydoc reads the docstrings."""
    app.connect("autodoc-process-docstring", _escape_shapes, priority=400)
