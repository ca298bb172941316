"""The documentation site: make docs."""

import sys
from pathlib import Path

from bt import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "BrainTorrent"
author = "the BrainTorrent authors"
copyright = "the BrainTorrent authors, Apache-2.0"
release = version = __version__

extensions = ["sphinx.ext.autodoc", "reference"]
exclude_patterns = ["_build"]
nitpicky = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
add_module_names = False

html_theme = "furo"
html_title = "BrainTorrent"
html_static_path: list[str] = []
html_show_sphinx = False
