"""How `make docs` builds the site: from the pages here, the docstrings of src/ and sandbox/."""

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
# Document the package of this repository, even if another version is installed.
sys.path[:0] = [str(HERE.parent / "src"), str(HERE.parent), str(HERE / "_ext")]

import fast_channels  # noqa: E402

project = "Fast Channels"
author = "the Fast Channels contributors"
version = release = fast_channels.__version__
# The public addresses of the project; a release adds them to [project.urls] of pyproject.toml.
urls = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"].get("urls", {})

# docstrings, excerpts and repository are in _ext/.
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "docstrings",
    "excerpts",
    "repository",
]
# Code that pages show, and the site.
exclude_patterns = ["_build", "examples", "diagrams"]
templates_path = ["_templates"]

# -- pages ------------------------------------------------------------------

myst_enable_extensions = ["colon_fence"]
# Quoted text may be code.
smartquotes = False
# Make the same anchors as forges, on which these pages are also read.
myst_heading_anchors = 4
# Blocks without a language are Python, or plain text.
highlight_language = "default"

# -- docstrings -------------------------------------------------------------

# In docstrings, single backticks mark code.
default_role = "literal"
autodoc_default_options = {
    "members": True,
    "undoc-members": True,
    "member-order": "bysource",
}
# Show the value of a default: a name such as TIMEOUT would send the reader to the source.
autodoc_preserve_defaults = False
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 80
# In the contents beside a page, a method is named without its class.
toc_object_entries_show_parents = "hide"

# Warn about each reference without a target; _ext/docstrings.py resolves those of annotations.
nitpicky = True
# The documentation of Python is not part of this site, and nothing is fetched.
nitpick_ignore_regex = [("py:class", r"(asyncio|collections\.abc|re|typing)\.\w+")]

# -- the site ---------------------------------------------------------------

html_theme = "furo"
html_title = f"Fast Channels {version}"
html_baseurl = urls.get("Documentation", "")
html_context = {"repository": urls.get("Repository")}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
# Furo's default for dark mode underlines the names of modules and classes.
pygments_dark_style = "github-dark"
