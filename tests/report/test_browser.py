"""The page as a browser shows it."""

import json
import shutil

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs Chromium and chromedriver on the PATH"
)

#: Corners of every label that stick out of their figure by more than a pixel.
CLIPPED = """
return [...document.querySelectorAll("figure svg")].flatMap(svg => {
  const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter(text => {
    const own = text.getBoundingClientRect();
    return own.left < box.left - 1 || own.right > box.right + 1
        || own.top < box.top - 1 || own.bottom > box.bottom + 1;
  }).map(text => svg.parentElement.ariaLabel + ": " + text.textContent);
});
"""

#: [encoder, metric, text] of every cell with a score.
CELLS = """
return [...document.querySelectorAll("td[data-metric]")].map(cell => [
  cell.parentElement.querySelector("th").innerText.replace("\u2060", "").trim(),
  cell.dataset.metric, cell.querySelector("span")?.innerText]);
"""


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.add_argument("--disable-background-networking")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def opened(browser, result, tmp_path_factory):
    """Address of the page, what the browser asked for to show it, and its console."""
    path = result.to_html(tmp_path_factory.mktemp("report") / "report.html")
    for log in ("performance", "browser"):
        browser.get_log(log)  # what the empty first tab left
    browser.set_window_size(1200, 900)
    browser.get(path.as_uri())
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    return path.as_uri(), requests, browser.get_log("browser")


@pytest.fixture
def page(browser, opened):
    browser.set_window_size(1200, 900)
    # A page that is opened again is sometimes looked at while the new one is still being read.
    browser.get("about:blank")
    browser.get(opened[0])
    WebDriverWait(browser, 60).until(
        lambda browser: browser.execute_script("return document.readyState") == "complete"
    )


def test_no_console_message(opened):
    _, _, console = opened
    assert console == []


def test_no_request_leaves_the_file(opened):
    page, requests, _ = opened
    assert page in requests, "the log does not show even the page itself"
    assert [url for url in requests if url != page and not url.startswith("data:")] == []


def test_every_figure_is_seen(browser, page):
    figures = browser.find_elements(By.CSS_SELECTOR, "figure")
    assert len(figures) == 13
    for figure in figures:
        svg = figure.find_element(By.TAG_NAME, "svg")
        assert svg.size["width"] > 200
        assert svg.size["height"] > 80
        assert figure.find_element(By.TAG_NAME, "figcaption").text


def test_no_label_is_cut_off(browser, page):
    assert browser.execute_script(CLIPPED) == []


def test_no_label_is_cut_off_with_many_long_names(browser, make_result, tmp_path):
    names = [f"a rather long name of an encoder, number {i}" for i in range(8)]
    rois = [f"ventral area number {i}" for i in range(11)]
    path = make_result(names, rois).to_html(tmp_path / "long.html")
    browser.get(path.as_uri())
    assert browser.execute_script(CLIPPED) == []


def test_numbers_read_from_the_page_are_the_results(browser, page, result):
    cells = browser.execute_script(CELLS)
    for encoder in result.encoders.to_dict("records"):
        for metric in ("r", "noise_ceiling", "r2", "mse_z", "pattern_r", "identification"):
            value = encoder[metric]
            expected = "–" if value != value else f"{value:.3f}".replace("-", "−")
            read = [text for name, of, text in cells if (name, of) == (encoder["encoder"], metric)]
            assert read == [expected], (encoder["encoder"], metric)


#: Words of encoders' names that are broken, or are not on the line of their colour.
BROKEN = """
return [...document.querySelectorAll("th.name:has(.swatch)")].flatMap(name => {
  const node = name.lastChild, words = [...node.data.matchAll(/[^\\s\u2060]+/g)];
  const lines = words.map(word => {
    const range = document.createRange();
    range.setStart(node, word.index);
    range.setEnd(node, word.index + word[0].length);
    return range.getClientRects();
  });
  const color = name.querySelector(".swatch").getClientRects();
  const apart = color.length != 1 || Math.abs(color[0].top - lines[0][0].top) > 5;
  const broken = words.filter((word, i) => lines[i].length > 1).map(word => word[0]);
  return apart ? [words[0][0], ...broken] : broken;
});
"""


@pytest.mark.parametrize("width", [500, 1200])
def test_names_of_encoders_are_broken_between_words_only(browser, make_result, tmp_path, width):
    names = ["MindSimulator (tokens)", "calibrated ridge (tokens)", "banded (pixels + Gabor)"]
    path = make_result(names).to_html(tmp_path / "names.html")
    browser.set_window_size(width, 900)
    browser.get(path.as_uri())
    assert browser.execute_script(BROKEN) == []


def test_only_tables_and_figures_scroll_sideways_on_a_phone(browser, page):
    browser.set_window_size(500, 900)  # the narrowest a desktop window can be
    width = browser.execute_script("return document.documentElement.clientWidth")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
