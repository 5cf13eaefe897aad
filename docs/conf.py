"""Sphinx configuration: builds without network."""

import sys
from pathlib import Path

import brainenc

sys.path.insert(0, str(Path(__file__).parent))
from figure_scraper import FigureScraper

project = "brainenc"
copyright = "the brainenc developers"
version = release = brainenc.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "matplotlib.sphinxext.plot_directive",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "examples", "plots", "results"]
default_role = "py:obj"

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings say shapes too
numpydoc_show_class_members = False  # the class template lists them

plot_include_source = plot_html_show_source_link = plot_html_show_formats = False
plot_formats = ["svg"]

html_theme = "pydata_sphinx_theme"
html_title = "brainenc"
html_static_path = ["_static"]
html_css_files = ["brainenc.css"]
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": [], "real_data": [], "add_an_encoder": []}

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "image_scrapers": (FigureScraper(),),
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
    "capture_repr": ("_repr_html_", "__repr__"),
    "write_computation_times": False,
}
