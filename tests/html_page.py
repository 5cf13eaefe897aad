"""A report as its tables, and scores as they stand in its cells."""

from html.parser import HTMLParser

import numpy as np

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Tables as {id: {row name: {metric: text}}}, ids, attributes, and tags left open."""

    def __init__(self, html):
        super().__init__()
        self.tables, self.ids, self.attributes, self.open, self.text = {}, [], [], [], []
        self.cell = self.row = self.row_name = None
        self.best = []
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.attributes += [(tag, name, value) for name, value in attrs.items()]
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.table = self.tables.setdefault(attrs.get("id"), {})
        self.cell = "" if tag in {"td", "th"} else self.cell
        if tag == "td":
            self.metric = attrs.get("data-metric")
            if "best" in attrs.get("class", "").split():
                self.best.append((self.row_name, self.metric))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"
        if tag == "th":
            self.row_name = self.cell.strip(" \u2060")
            self.row = self.table.setdefault(self.row_name, {})
        elif tag == "td":
            self.row[self.metric or f"column {len(self.row)}"] = self.cell

    def handle_data(self, data):
        self.text.append(data)
        if self.cell is not None:
            self.cell += data

    def says(self, words):
        return words in " ".join("".join(self.text).split())


def shown(value, low=None, high=None):
    """A score as it stands in a cell."""
    if np.isnan(value):
        return "–"
    cell = f"{value:.3f}"
    if low is not None:
        cell += f"[{low:.3f},\u00a0{high:.3f}]"
    return cell.replace("-", "−")
