"""Names that hold code: in the page, in the view to turn about, and in figures."""

import html as entities
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from html_page import Page

from brainenc.brain.surfaces import FSAVERAGE5
from brainenc.report import figures, render_report, surface
from brainenc.report.differences import difference_forest, roi_difference_map
from brainenc.report.style import figure_to_svg, short

CODE = "window.hit=1"
NAMES = {
    "script": f"</script><script>{CODE}</script>",
    "title": f"</title><script>{CODE}</script>",
    "image": f'<img src=x onerror="{CODE}">',
    "quotes": f"\"'><svg onload={CODE}>",
    "srcdoc": f"&quot;&gt;&lt;script&gt;{CODE}&lt;/script&gt;",
    "comment": "<!--<script>",
    "style": f"</style><script>{CODE}</script>",
    "link": f"<a href='javascript:{CODE}'>x</a>",
    "template": "{{ 7*7 }}{% raw %}",
    "mathtext": r"$\frac{1}{$ _under_ \alpha a_b^c",
    "usetex": r"\input{/etc/passwd} 100 %",
    "cdata": "]]></svg><b>x</b>",
    "emoji": "🧠👩🏽‍🔬 é",
    "right to left": "\u202eegdir\u202c שלום مرحبا",
    "lines": "one\ntwo\r\nthree\u2028four",
    "surrogate": "path \udcff\ud800",
    "long": "ridge with a very long name " * 40,
    "unbroken": "x" * 2000,
}


def result_with(make_result, name):
    """A run whose encoders, ROIs, atlas, data and warnings all have the name; on the cortex."""
    rows = [pd.DataFrame({"vertex": np.arange(300), "hemisphere": half}) for half in ("lh", "rh")]
    table = pd.concat(rows, ignore_index=True)
    names, rois = [name, "mean"], [name, f"{name} 2"]
    made = make_result(names, rois, n_voxels=len(table))
    maps = pd.concat(
        [
            made.maps.reset_index(drop=True),
            pd.concat([table] * len(names), ignore_index=True),
        ],
        axis=1,
    ).rename(columns={"visual": name})
    tables = {
        each: getattr(made, each).replace({"atlas": {"visual": name}}) for each in ("rois", "pairs")
    }
    manifest = {"data": {"name": name}, "settings": {"encoders": {name: {"class": name}}}}
    return make_result(
        names, rois, n_voxels=len(table), maps=maps, **tables, manifest=manifest, warnings=[name]
    )


class Tags(HTMLParser):
    """Tags of a page, the text of its title, and its attributes."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.title, self.attributes = [], "", []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "title":
            self.title += data


@pytest.fixture(scope="module")
def harmless(make_result):
    return Tags(render_report(result_with(make_result, "harmless"), surface="none"))


@pytest.mark.parametrize("label", NAMES)
def test_a_name_adds_no_tag_and_no_attribute_and_is_shown(make_result, harmless, label):
    name = NAMES[label]
    page = render_report(result_with(make_result, name), surface="none")
    ours, theirs = Tags(page), harmless
    for tag in ("script", "img", "svg", "a", "style", "b", "iframe", "title"):
        assert ours.tags.count(tag) == theirs.tags.count(tag)
    assert not [attribute for attribute in ours.attributes if attribute.startswith("on")]
    assert "<!--" not in page
    rows = Page(page).tables["voxel-scores"]
    assert " ".join(name.split()) in {" ".join(row.split()) for row in rows}


MAPS = {half: np.linspace(0, 1, FSAVERAGE5) for half in ("lh", "rh")}


def test_a_title_adds_nothing_to_the_view_to_turn_about():
    title = " ".join(name for label, name in NAMES.items() if label != "surrogate")
    view, harmless = (
        surface.plot_surface(MAPS, title=each, interactive=True).get_standalone()
        for each in (title, "harmless")
    )
    assert Tags(view).tags == Tags(harmless).tags
    assert " ".join(Tags(view).title.split()).endswith(" ".join(title.split()))
    # The title in the script: entities, which plotly shows as the characters.
    stored = json.loads(re.search(r"surfaceMapInfo = (\{.*?\});", view)[1])["title"]
    assert "<" not in stored
    assert entities.unescape(stored) == entities.unescape(entities.escape(title, quote=False))


@pytest.mark.parametrize("label", NAMES)
def test_figures_take_any_name_and_show_it_as_text(make_result, label):
    name = NAMES[label]
    result = make_result([name, "mean"], [name, f"{name} 2"])
    drawn = [
        figures.ceiling_scatter(result.maps, atlas="visual"),
        figures.roi_bars(result.rois),
        figures.roi_distributions(result.maps, atlas="visual"),
        difference_forest(result.pairs[result.pairs["atlas"] == "all"]),
        roi_difference_map(result.pairs[result.pairs["atlas"] == "visual"]),
    ]
    for figure in drawn:
        svg = figure_to_svg(figure, "x")
        # The name is text of the picture, letter by letter: no formula was made of it.
        texts = " ".join(entities.unescape(text) for text in re.findall(r">([^<>]*)</text>", svg))
        assert " ".join(short(name, 14).split())[:6] in " ".join(texts.split())
        assert "<script" not in svg


@pytest.mark.slow
def test_a_report_with_any_name_is_a_file_of_utf_8(make_result, tmp_path):
    for name in (NAMES["surrogate"], NAMES["emoji"]):
        path = result_with(make_result, name).to_html(tmp_path / "report.html")
        assert "path" in path.read_text(encoding="utf-8") or "🧠" in path.read_text("utf-8")


# ------------------------------------------------------------------ in a browser

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")

#: Title of the page, title that plotly shows, and links in it, once it is drawn.
TITLE = """
const done = arguments[0];
const look = () => {
  const title = document.querySelector(".gtitle");
  const ofPage = document.title.replace(/^Nilearn - /, "");
  if (title) done([ofPage, title.textContent, title.querySelectorAll("a").length]);
  else setTimeout(look, 100);
};
look();
"""


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not (BROWSER and DRIVER):
        pytest.skip("needs Chromium and chromedriver on the PATH")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["</script><b>", "</title><i>$x$&lt;"])
def test_nothing_of_a_name_runs_in_a_browser(browser, make_result, tmp_path, name):
    path = result_with(make_result, name).to_html(tmp_path / "r.html", surface="interactive")
    browser.get(path.as_uri())
    assert browser.execute_script("return window.hit") is None
    browser.switch_to.frame(browser.find_element("tag name", "iframe"))
    assert browser.execute_script("return window.hit") is None
    shown = browser.execute_async_script(TITLE)
    assert browser.execute_script("return window.hit") is None
    browser.switch_to.default_content()
    wanted = " ".join(f"{short(name)}: Pearson r".split())
    assert [" ".join(text.split()) for text in shown[:2]] == [wanted, wanted]
    assert shown[2] == 0


@pytest.mark.slow
def test_no_title_runs_in_a_browser(browser, tmp_path):
    for i, label in enumerate(NAMES):
        if label in ("script", "title", "image", "quotes", "link", "comment"):
            path = tmp_path / f"{i}.html"
            surface.plot_surface(MAPS, title=NAMES[label], interactive=True).save_as_html(str(path))
            browser.get(path.as_uri())
            assert browser.execute_script("return window.hit") is None
            browser.switch_to.frame(browser.find_element("tag name", "iframe"))
            assert browser.execute_async_script(TITLE)[1] == NAMES[label]
            assert browser.execute_script("return window.hit") is None


@pytest.mark.slow
@pytest.mark.parametrize("label", ["long", "unbroken", "right to left"])
def test_the_page_does_not_become_wider_than_the_window(browser, make_result, tmp_path, label):
    path = result_with(make_result, NAMES[label]).to_html(tmp_path / "r.html", surface="none")
    browser.set_window_size(1200, 900)
    browser.get(path.as_uri())
    width = browser.execute_script("return document.documentElement.clientWidth")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
