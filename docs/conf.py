"""How `make docs` builds the site: from the pages here, the docstrings of src/ and sandbox/."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
# What is documented is what lies beside, wherever another version may be installed.
sys.path[:0] = [str(HERE.parent / "src"), str(HERE.parent), str(HERE / "_ext")]

import fast_channels  # noqa: E402

project = "Fast Channels"
author = "the Fast Channels contributors"
version = release = fast_channels.__version__

# docstrings, repository and step are in _ext/.
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "docstrings",
    "repository",
    "step",
]
# Code that pages include, and what was built.
exclude_patterns = ["_build", "examples", "diagrams"]

# -- pages ------------------------------------------------------------------

myst_enable_extensions = ["colon_fence"]
# What is quoted may be code.
smartquotes = False
# Anchors as the forge makes them, where the same pages are read.
myst_heading_anchors = 4
# Python, if it is any: what is not says its language.
highlight_language = "default"

# -- docstrings -------------------------------------------------------------

# Single backticks are code, as everywhere in this repository.
default_role = "literal"
autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "member-order": "bysource",
}
# Defaults as they are written, such as TIMEOUT, would send the reader to the source.
autodoc_preserve_defaults = False
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 80

# A reference that leads nowhere is a mistake; see _ext/docstrings.py for those of annotations.
nitpicky = True
# Of Python, whose documentation is not here; nothing is fetched.
nitpick_ignore_regex = [("py:class", r"(asyncio|collections\.abc|re|typing)\.\w+")]

# -- the site ---------------------------------------------------------------

html_theme = "furo"
html_title = "Fast Channels"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
