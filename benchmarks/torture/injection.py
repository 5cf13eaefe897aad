"""Names with markup, scripts and formulas, wherever a benchmark and its report show names.

A page is parsed as a browser parses it, the page in its iframe too: apart from text, it has the
same elements, handlers and addresses as the page of harmless names. Some pages are opened in
Chromium, where a script that ran would have left a mark.
"""

import contextlib
import csv
import re
import shutil
import warnings
import zlib
from collections import Counter
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import brainenc
from torture.browser import ran
from torture.mutate_bytes import CANARY

#: What a script that ran does.
RUN = f"window.{CANARY}=1"

PAYLOADS = (
    # Short ones: some places cut names to 26 characters.
    *("</script><svg onload=tc=1>", "</title><svg onload=tc=1>", "<img src=x onerror=tc=1>"),
    *("<script>tc=1</script>", "</script><script>tc=1//", "<!--<script>"),
    f"<script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f"</title><script>{RUN}</script>",
    f"</style><script>{RUN}</script>",
    f'</textarea></pre></svg><img src=x onerror="{RUN}">',
    f'<img src=x onerror="{RUN}">',
    f'<svg onload="{RUN}"></svg>',
    f'" onmouseover="{RUN}" x="',
    f"' autofocus onfocus='{RUN}' tabindex='0",
    f'"><iframe srcdoc="&lt;script&gt;parent.{CANARY}=1&lt;/script&gt;"></iframe>',
    f"&lt;script&gt;{RUN}&lt;/script&gt;",
    f"&#60;script&#62;{RUN}&#60;/script&#62;",
    f"&quot; onload=&quot;{RUN}",
    f"<!--<script>{RUN}//",
    f"]]><script>{RUN}</script><![CDATA[",
    f"\\u003cscript\\u003e{RUN}\\u003c/script\\u003e",
    f'";{RUN};//',
    f"';{RUN};//",
    f"${{{RUN}}}",
    f"`;{RUN};`",
    "{{ 7 * 191 }}{% for x in (1,) %}{{ self }}{% endfor %}",
    f'<a href="javascript:{RUN}">here</a>',
    f"<base href=//{CANARY}.example/><link rel=stylesheet href=//{CANARY}.example/x>",
    f'<meta http-equiv=refresh content="0;url=//{CANARY}.example">',
    f"<form action=//{CANARY}.example><button>x</button></form>",
    f"<math><mtext></form><form><mglyph><style></math><img src onerror={RUN}>",
    f"<a href='https://{CANARY}.example'>",
    f"x\n<script>\n{RUN}\n</script>\ny",
    f"\u2028<script>{RUN}</script>\u2029",
    f"<scr\x00ipt>{RUN}</scr\x00ipt>",
    f"<ſcript>{RUN}</ſcript>",
    "$\\frac{a}{b",
    "$x$ and $y",
    "\\unknown{",
    "%s %(name)s {0} {name}",
    f'=HYPERLINK("http://{CANARY}.example","x")',
    f"=cmd|' /C {CANARY}'!A0",
    "+1+1",
    "-1+1",
    "@SUM(1,1)",
    "\t=1+1",
    "\r=1+1",
    " =1+1",
    '=1+1","=2+2',
    "a,b",
    'a"b',
    "a\nb",
    "\u202egnp.exe",
    "e\u0301",
    "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    "x" * 300,
)

#: How many of them are short.
N_SHORT = 6

#: First characters that a spreadsheet takes for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


#: Elements that run, fetch or send something, or change how the page is read.
ACTIVE = {
    *("script", "iframe", "object", "embed", "applet", "base", "link", "meta", "form", "input"),
    *("button", "frame", "frameset", "portal", "video", "audio", "math", "mglyph", "textarea"),
    *("animate", "set", "foreignobject", "title", "style", "template", "noscript", "plaintext"),
}


class Elements(HTMLParser):
    """Elements and attributes of a page and its iframes that can run or fetch something.

    Text and harmless elements are not noted.
    """

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.found: Counter[str] = Counter()
        self.scripts: list[str] = []
        self.in_script = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.in_script = tag == "script"
        if tag in ACTIVE:
            self.found[f"<{tag}>"] += 1
        for name, value in attrs:
            value = value or ""
            if name.startswith("on") or name in ("formaction", "action", "background", "poster"):
                self.found[f"<{tag} {name}>"] += 1
            elif name == "srcdoc":
                inside = Elements(value)
                self.scripts += inside.scripts
                self.found.update({f"iframe: {key}": n for key, n in inside.found.items()})
            elif name in ("href", "src", "xlink:href") and not value.startswith(
                ("#", "data:image")
            ):
                self.found[f"<{tag} {name}={value[:40]}>"] += 1

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.in_script = False

    def handle_endtag(self, tag: str) -> None:
        self.in_script = False

    def handle_data(self, data: str) -> None:
        if self.in_script:
            self.scripts.append(data)
            # After this a browser goes on with the script behind its end tag.
            self.found["<!-- in a script"] += data.count("<!--") + len(
                re.findall("<script", data, re.IGNORECASE)
            )


def run_with(names: list[str], out: Path, *, surface: str = "none") -> tuple[str, Any]:
    """A benchmark whose names are these, and its report."""
    rng = np.random.default_rng(0)
    n_images, n_voxels = 24, 12
    images = rng.integers(0, 256, (n_images, 8, 8, 3), dtype=np.uint8)
    features = rng.standard_normal((n_images, 3))
    betas = features[:, None] @ rng.standard_normal((3, n_voxels))
    betas = betas + rng.standard_normal((n_images, 2, n_voxels))
    labels = np.resize(np.array(names[:3], dtype=object), n_voxels)
    voxels = pd.DataFrame(
        {
            names[3]: labels,
            names[4]: np.resize(np.array(names[1:5], dtype=object), n_voxels),
            "vertex": np.arange(n_voxels) * 800,
            "hemisphere": np.resize(["lh", "rh"], n_voxels),
        }
    )
    data = brainenc.EncodingData(images, betas, voxels, name=names[5], units=names[0])
    failing = brainenc.RidgeEncoder(alphas=names[6])
    encoders = {
        names[7]: brainenc.RidgeEncoder(),
        names[8]: brainenc.MeanEncoder(),
        names[9]: failing,
    }
    settings = {"cv": 2, "n_bootstraps": 10, "n_permutations": 10, "n_draws": 10, "check": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = brainenc.benchmark(
            data, encoders, features=features, out=out, **settings, verbose=False
        )
        data.save(out.with_name("data.brain"))
        path = result.to_html(out / "report.html", surface=surface)
    return path.read_text(encoding="utf-8"), result


#: Names in a run of `run_with`.
N_NAMES = 10


def harmless() -> list[str]:
    return [f"name {letter}" for letter in "abcdefghij"]


class Pages:
    """Pages of odd names, compared with the page of harmless ones."""

    def __init__(self, home: Path, browser: Any = None):
        self.home, self.browser = home / "injection", browser
        self.clean = {}
        for surface in ("none", "interactive"):
            html, _ = run_with(harmless(), self._folder(), surface=surface)
            self.clean[surface] = Elements(html).found

    def _folder(self) -> Path:
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        return self.home / "run"

    def page(self, seed: int) -> dict[str, Any]:
        """One page.

        Returns
        -------
        dict
            "n" (names), "markup" (elements that harmless names do not give), "ran" (where Chromium
            ran a script of a name), "formulas" (cells of tables that begin like a formula),
            "changed" (names that are others when the tables are read again), "failed" (the error,
            of a run that did not end) or "refused" (the error that says so of a name).
        """
        rng = np.random.default_rng([seed, zlib.crc32(b"page")])
        names = [PAYLOADS[i] for i in N_SHORT + rng.permutation(len(PAYLOADS) - N_SHORT)[:N_NAMES]]
        names[int(rng.integers(N_NAMES))] = PAYLOADS[rng.integers(N_SHORT)]
        surface = "interactive" if seed % 3 == 0 else "none"
        if surface == "interactive":  # a page within the page, with the name of the best encoder
            names = [name for name in names if name not in PAYLOADS[:N_SHORT]]
            names = [*names[:7], PAYLOADS[seed // 3 % N_SHORT], *names[7:], *harmless()][:N_NAMES]
        found: dict[str, Any] = {"seed": seed, "n": N_NAMES, "markup": "", "formulas": 0}
        found |= {"changed": "", "failed": "", "ran": "", "opened": False}
        out = self._folder()
        try:
            html, result = run_with(names, out, surface=surface)
        except Exception as error:
            # A name may be refused, if the error says so.
            clear = isinstance(error, (ValueError, TypeError)) and "name" in str(error)
            return found | {
                "failed" if not clear else "refused": f"{type(error).__name__}: {error}"[:300]
            }
        more = Elements(html).found - self.clean[surface]
        found["markup"] = ", ".join(f"{key} × {n}" for key, n in more.items())[:300]
        if self.browser is not None and (surface == "interactive" or seed % 3 == 1):
            found |= {"opened": True, "ran": ran(self.browser, out / "report.html")}
        found["formulas"] = sum(map(formulas, out.parent.rglob("*.csv")))
        found["changed"] = self._changed(out, result, names)
        return found

    @staticmethod
    def _changed(out: Path, result: Any, names: list[str]) -> str:
        again = brainenc.benchmarking.BenchmarkResult.load(out)
        faults = []
        if list(again.encoders["encoder"]) != list(map(str, result.encoders["encoder"])):
            faults.append("names of encoders")
        if list(again.rois["roi"]) != list(map(str, result.rois["roi"])):
            faults.append("names of ROIs")
        data = brainenc.EncodingData.load(out.with_name("data.brain"))
        if data.name != names[5] or list(data.voxels.columns[:2]) != names[3:5]:
            faults.append("names in the .brain folder")
        if sorted(data.rois(names[3])) != sorted(set(names[:3])):
            faults.append("labels in the .brain folder")
        return ", ".join(faults)


def formulas(path: Path) -> int:
    """Cells that a spreadsheet would take for a formula."""
    with path.open(newline="", encoding="utf-8") as file:
        return sum(
            cell.startswith(FORMULA) and not _is_number(cell)
            for row in csv.reader(file)
            for cell in row
        )


def _is_number(cell: str) -> bool:
    with contextlib.suppress(ValueError):
        float(cell)
        return True
    return False


@dataclass(frozen=True)
class Named:
    """The campaign as `python -m torture` takes it."""

    what: str = "reports with odd names"
    n: int = 36


def table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "pages": len(rows),
                "names": sum(row["n"] for row in rows),
                "refused": sum("refused" in row for row in rows),
                "failed": sum(bool(row["failed"]) for row in rows),
                "with other elements": sum(bool(row["markup"]) for row in rows),
                "cells like formulas": sum(row["formulas"] for row in rows),
                "opened in Chromium": sum(row["opened"] for row in rows),
                "script ran": sum(bool(row["ran"]) for row in rows),
                "names changed": sum(bool(row["changed"]) for row in rows),
            }
        ]
    )
