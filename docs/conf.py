"""Sphinx: how the pages are built. `make docs` treats every warning as an error, and needs no network."""

import inspect
import os
import sys
from pathlib import Path
from typing import Any

from pygments.lexer import bygroups, inherit
from pygments.lexers.python import PythonLexer
from pygments.token import Keyword, Operator, String, Text

import lightning_magics

sys.path.insert(0, str(Path(__file__).parent))

project = "lightning_magics"
author = "The lightning_magics developers"
project_copyright = author
version = release = lightning_magics.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "declared"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
napoleon_use_rtype = False  # a sentence with a colon begins with no type
autodoc_typehints = "none"  # the docstrings say what a user needs; most parameters take any object

# Notebooks are executed at every build, with the kernel of this environment.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the threads of a tiny model wait for each other
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_ipywidgets_js: dict[str, Any] = {}  # what a fit leaves is plain html; nothing is fetched from elsewhere

html_theme = "pydata_sphinx_theme"
html_title = f"lightning_magics {version}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
templates_path = ["_templates"]
html_sidebars = {"**": ["contents"]}
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "lightning_magics"},
    "navbar_center": [],
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "pygments_light_style": "default",
    "pygments_dark_style": "github-dark",
}


class MagicLexer(PythonLexer):
    """Python with lines of magics, as the cells of a notebook have them."""

    name = "IPython cell"
    aliases = ("python", "ipython3")
    tokens = {  # noqa: RUF012 -- pygments' own way to say it
        "root": [
            (r"^(%%?)(\w+)(.*)$", bygroups(Operator, Keyword, String)),
            (r"^(\w+)( *= *)(%)(\w+)(.*)$", bygroups(Text, Operator, Operator, Keyword, String)),
            inherit,
        ]
    }


def _as_written(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Give a property the docstring that it has: napoleon takes what comes before a colon for a type."""
    if what == "property":
        lines[:] = (inspect.getdoc(obj) or "").splitlines()


def setup(app: Any) -> None:
    """Read blocks of Python and cells as what they are, cells with magics; and properties as they are written."""
    for alias in MagicLexer.aliases:
        app.add_lexer(alias, MagicLexer)
    app.connect("autodoc-process-docstring", _as_written, priority=900)
