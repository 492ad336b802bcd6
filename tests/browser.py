"""A page as Chromium shows it: measured by a script in a copy of it, in a frame of a given width."""

import html
import json
import re
import shutil
import subprocess

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (1280, 400)

# What is measured in the page.  `clipped`: texts wider than what holds them, where it cannot scroll.
_MEASURE = """
<script>
const shown = node => node.getClientRects().length && getComputedStyle(node).visibility !== "hidden";
const rgb = text => text.match(/[\\d.]+/g).map(Number);
function behind(node) {
  for (; node; node = node.parentElement) {
    const [r, g, b, a = 1] = rgb(getComputedStyle(node).backgroundColor);
    if (a === 1) return [r, g, b];
    if (a > 0) return behind(node.parentElement).map((below, i) => a * [r, g, b][i] + (1 - a) * below);
  }
  return [255, 255, 255];
}
const light = color => color.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
function contrast(node) {
  const style = getComputedStyle(node);
  const [one, other] = [rgb(node.closest("svg") ? style.fill : style.color), behind(node)].map(light);
  return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
}
function texts() {
  const found = [];
  for (const node of document.querySelectorAll("body *")) {
    if (["SCRIPT", "STYLE"].includes(node.tagName) || !shown(node)) continue;
    if (![...node.childNodes].some(child => child.nodeType === 3 && child.data.trim())) continue;
    const svg = node.closest("svg"), scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    found.push({text: node.textContent.trim().slice(0, 60), px: scale * parseFloat(getComputedStyle(node).fontSize),
      contrast: contrast(node)});
  }
  return found;
}
function clipped() {
  const found = [];
  for (const node of document.querySelectorAll("svg text")) {
    const box = node.getBoundingClientRect(), svg = node.closest("svg").getBoundingClientRect();
    if (box.left < svg.left - 1 || box.right > svg.right + 1 || box.top < svg.top - 1 || box.bottom > svg.bottom + 1)
      found.push(node.textContent);
  }
  for (const node of document.querySelectorAll("body *:not(svg *)"))
    if (shown(node) && node.scrollWidth > node.clientWidth + 1 && node.clientWidth &&
        !["auto", "scroll"].includes(getComputedStyle(node).overflowX)) found.push(node.tagName + " " + node.className);
  return found;
}
function measured() {
  const size = node => { const box = node.getBoundingClientRect(); return [box.left, box.top, box.width, box.height]; };
  return {width: innerWidth, scroll: document.documentElement.scrollWidth, errors: window.failures, texts: texts(),
    clipped: clipped(), told: document.getElementById("told")?.textContent,
    images: [...document.images].map(size),
    rows: [...document.querySelectorAll(".images")].map(box => [...box.children].map(size)),
    cut: [...document.querySelectorAll(".wide")].map(box => [box.scrollWidth > box.clientWidth + 1,
      getComputedStyle(box, "::before").content]),
    captions: [...document.querySelectorAll("figcaption:not(.legend) span")].map(line => [line.textContent,
      line.getBoundingClientRect().height / parseFloat(getComputedStyle(line).lineHeight)]),
    shades: [...document.querySelectorAll(".confusion td")].map(cell =>
      [cell.textContent, behind(cell).map(Math.round)]),
    charts: document.querySelectorAll("svg").length,
    heads: [...document.querySelectorAll("table")].map(table => [...table.rows].slice(0, 2).map(row =>
      [...row.cells].map(cell => getComputedStyle(cell).textAlign))),
    page: getComputedStyle(document.body).backgroundColor, probed: window.probe ? window.probe() : null};
}
addEventListener("load", () => setTimeout(() => parent.postMessage(JSON.stringify(measured()), "*"), 50));
</script></body>"""
_CATCH = (
    """<head><script>window.failures = []; addEventListener("error", e => window.failures.push(e.message));</script>"""
)
_OUTER = """<!DOCTYPE html><meta charset="utf-8"><style>body {{ margin: 0 }} iframe {{ border: 0 }}</style>
<script>addEventListener("message", e => {{ document.body.dataset.found = e.data; }});</script>
<iframe style="width: {width}px; height: 900px" srcdoc="{page}"></iframe>"""


def look(page, folder, width, dark=False, probe="null"):
    """What a page measures at a width in pixels; `probe`: an expression whose value is `probed`.

    Skips where no browser is installed.  A frame, as a window of Chromium has 500 pixels at least.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    text = page.read_text(encoding="utf-8").replace("<head>", _CATCH, 1)
    ending = _MEASURE.replace("<script>", f"<script>window.probe = () => {probe};", 1)
    inner = html.escape(ending.join(text.rsplit("</body>", 1)))
    path = folder / "outer.html"
    path.write_text(_OUTER.format(width=width, page=inner), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--virtual-time-budget=10000"]
    command += [f"--window-size={max(width, 500)},900", f"--user-data-dir={folder / 'profile'}"]
    command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    done = subprocess.run([*command, f"file://{path}"], capture_output=True, text=True, timeout=180)
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


def check_basics(seen, width):
    """No script failed, nothing scrolls sideways or is cut without a hint, text is >= 12 px at 4.5 : 1."""
    assert seen["errors"] == []
    assert seen["width"] == width
    assert seen["scroll"] <= width
    assert seen["clipped"] == []
    assert not [text for text in seen["texts"] if text["px"] < 12]
    assert not [text for text in seen["texts"] if text["contrast"] < 4.5]
    for is_cut, hint in seen["cut"]:
        assert ("scroll" in hint) == is_cut
    for table in seen["heads"]:
        head, *first = table
        assert first in ([], [head])
