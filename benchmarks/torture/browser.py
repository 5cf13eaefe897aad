"""Whether a script of a name ran when Chromium showed a page."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torture.mutate_bytes import CANARY

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser, or None without Chromium, chromedriver and selenium."""
    try:
        from selenium import webdriver
    except ImportError:
        yield None
        return
    if not (BROWSER and DRIVER):
        yield None
        return
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.add_argument("--disable-background-networking")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def ran(browser: Any, path: Path) -> str:
    """Where a script of a name left its mark: "page", "iframe 0", … or ""."""
    mark = f"return window.tc === 1 || window.{CANARY} === 1"
    browser.get(path.as_uri())
    found = ["page"] if browser.execute_script(mark) else []
    for i, frame in enumerate(browser.find_elements("tag name", "iframe")):
        browser.switch_to.frame(frame)
        if browser.execute_script(mark):
            found.append(f"iframe {i}")
        browser.switch_to.default_content()
    return ", ".join(found)
