"""Part of the Sphinx configuration; in a file of its own because Sphinx pickles it."""

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst


class FigureScraper:
    """Shows the figures that an example makes without pyplot, as brainenc.report does."""

    def __init__(self):
        self.shown = []

    def __repr__(self):  # part of what Sphinx compares between builds
        return "FigureScraper()"

    def __call__(self, block, block_vars, gallery_conf):
        made = block_vars["example_globals"].values()
        paths = []
        for figure in made:
            if isinstance(figure, Figure) and not any(figure is old for old in self.shown):
                self.shown.append(figure)
                paths.append(next(block_vars["image_path_iterator"]))
                figure.savefig(paths[-1], dpi=110)
        return figure_rst(paths, gallery_conf["src_dir"])
