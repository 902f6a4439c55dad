"""How the site is built: sphinx-build -W --keep-going -b html docs docs/_build/html

Nothing is fetched from a network, neither now nor when a page is read. ``DUALNET_NOTEBOOKS=off`` leaves the tutorials
unexecuted, for a quick look; else they run, and an error in one of them stops the build.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_extensions")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))

import source_pages  # noqa: E402

import dualnet  # noqa: E402
import dualnet.bench  # noqa: E402

project = "dualnet"
author = "the dualnet authors"
copyright = author
version = release = dualnet.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.linkcode",
    "myst_nb",
    "sphinx_copybutton",
    "cards",
    "code_colours",
    "docstrings",
    "equations",
    "examples",
    "made",
    "mathml",
    "playground_page",
    "source_pages",
    "unbroken",
]
root_doc = "index"
exclude_patterns = ["_build", "jupyter_execute", "playground"]  # the last is no pages, but a page of its own
suppress_warnings = [
    "autosummary.import_cycle",  # a module's names are listed below its own docstring
    "ref.python",  # the type `Row` in a signature may be one of several, and is then no link
]

# -- pages in Markdown, tutorials as notebooks

myst_enable_extensions = ["colon_fence", "dollarmath", "deflist", "tasklist"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 3
myst_update_mathjax = False
nb_execution_mode = os.environ.get("DUALNET_NOTEBOOKS", "force")
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"

# -- the reference, from docstrings

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autosummary_generate = False
add_module_names = False
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
linkcode_resolve = source_pages.linkcode_resolve

# -- how it looks

html_theme = "furo"
html_title = f"dualnet {version}"
html_static_path = ["_static"]
html_favicon = "playground/icon.svg"
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_permalinks_icon = "#"
pygments_style = "code_colours.Readable"
pygments_dark_style = "github-dark"
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#1d5f9e",
        "color-brand-content": "#1d5f9e",
        "font-stack": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif",
        "font-stack--monospace": "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace",
    },
    "dark_css_variables": {
        "color-brand-primary": "#7db8ee",
        "color-brand-content": "#7db8ee",
    },
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
