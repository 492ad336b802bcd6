"""report.html: its numbers, its form, and that it needs nothing but itself."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from lipjax.evaluation.html_report import write_html_report
from lipjax.evaluation.radius import Radius
from lipjax.evaluation.summary_table import table

DTYPE = np.dtype([("index", "i8"), *Radius.columns.items()])
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
VOID = {"meta", "img", "br"}


def example(count=60, classes=3, channels=3, attack=True, right=0.7, **changes):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        label = int(rng.integers(classes))
        is_right = bool(rng.uniform() < right)
        other = (label + 1) % classes
        radius = float(rng.uniform(0.01, 0.6)) if is_right else 0.0
        rows.append((i, label, label if is_right else other, other, radius, 1))
    rows = np.array(rows, DTYPE)
    radius = rows["radius"]
    closest = 1.1 * radius if attack else None
    summary = {
        "dataset": "digits",
        "class_names": [f"<{i}> & co" for i in range(classes)],
        "split": "test",
        "num_examples": count,
        "images_in_split": count + 1,
        "images_sha256": "0" * 64,
        "standard_accuracy": float(np.mean(rows["label"] == rows["prediction"])),
        "certified_accuracy": {"36/255": float(np.mean(radius > 36 / 255)), "0.5": float(np.mean(radius > 0.5))},
        "average_certified_radius": float(radius.mean()),
        "attack": None,
        "precision": {"float32": {"features_max": 1.5e-6, "features_mean": 1e-7, "logits_max": 2e-6}},
        "paper_protocol_not_a_proof": None,
        "float_slack": 0.0,
        "rounding": {"precision": "float64", "error_bound": 1e-11, "unknown": []},
        "float32": None,
        "lipschitz_bound": 2.857143,
        "chain_of_proof": [
            {
                "layer": "input",
                "kind": "(x − mean) / std",
                "lipschitz": 2.857143,
                "method": "1 / min(std)",
                "norm": None,
            },
            {"layer": "stem", "kind": "convolution", "lipschitz": 1.0, "method": "Cholesky", "norm": 1.912345},
            {"layer": "head", "kind": "head", "lipschitz": None, "method": "all rivals", "norm": None},
        ],
        "exact_fraction": 1.0,
        "seconds": 1.0,
        "params_sha256": "0123456789abcdef" * 4,
    } | changes
    if attack:
        summary["attack"] = {"strength": "fast", "steps": 10, "starts": 1, "robust_accuracy_upper_bound": {"0.5": 0.5}}
        summary["attack"]["domain"] = "images"
        summary["attack"]["detection_factor"] = 1.25
    images = rng.integers(0, 17, (count, 8, 8, channels)).astype(np.uint8)
    return summary, table(summary), rows, closest, images, 16


class Page(HTMLParser):
    """Checks that tags are balanced; collects the cells of tables, the sources of images and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tables, self.sources, self.text, self.tags = [], [], [], [], set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            assert dict(attributes)["alt"]
            self.sources.append(dict(attributes)["src"])
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


def write(path, *arguments):
    write_html_report(path / "report.html", *arguments)
    return (path / "report.html").read_text()


def test_numbers(tmp_path):
    summary, text, rows, closest, images, pixel_max = example()
    page = Page(write(tmp_path, summary, text, rows, closest, images, pixel_max))
    everything = "".join(page.text)
    assert text in everything
    arithmetic, classes, confusion, chain = page.tables
    assert arithmetic[1] == ["float32", "1.50e-06", "1.00e-07", "2.00e-06"]
    for name in range(3):
        own = [row for row in rows if row["label"] == name]
        right = [row for row in own if row["prediction"] == name]
        certified = [sum(row["radius"] > r for row in own) for r in (36 / 255, 0.5)]
        assert classes[1 + name] == [
            f"<{name}> & co",
            str(len(own)),
            f"{len(right) / len(own):.2%}",
            *(f"{count / len(own):.2%}" for count in certified),
            f"{np.mean([row['radius'] for row in own]):.4f}",
        ]
        wrong = [str(sum(r["prediction"] == k for r in own)) if k != name else "·" for k in range(3)]
        assert confusion[1 + name] == [f"<{name}> & co", *wrong, str(len(right) - certified[0]), str(certified[0])]
    assert [row[0] for row in chain[1:]] == ["input", "stem", "head"]
    assert chain[2][2:4] == ["1.000000000", "1.912345"]
    by_radius = sorted((row for row in rows if row["label"] == row["prediction"]), key=lambda row: row["radius"])
    shown = [int(number) for number in re.findall(r"image (\d+), class", everything)]
    assert shown == [row["index"] for row in [*by_radius[:8], *by_radius[::-1][:8]]]
    least = by_radius[0]
    assert f"image {least['index']}, class <{least['label']}> & co" in everything
    assert f", rival <{least['rival']}> & co" in everything
    assert confusion[0] == ["class", *(f"<{name}> & co" for name in range(3)), "not certified", "certified"]
    assert f"closest attack {closest[shown[0]]:.4f}" in everything


def test_it_needs_nothing_else_and_is_the_same_each_time(tmp_path):
    text = write(tmp_path, *example())
    page = Page(text)
    assert len(page.sources) == 2 + 16
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert not re.search(r"https?:|url\(|@import", text)
    assert text == write(tmp_path, *example())


@pytest.mark.parametrize(
    "arguments",
    [
        {"count": 1},
        {"right": 0.0},
        {"right": 1.0, "attack": False, "precision": None, "average_certified_radius": None},
        {"classes": 100, "count": 300},
        {"channels": 1, "float_slack": 1e-5},
        {"exact_fraction": None, "dataset": "<b>x"},
    ],
)
def test_other_certifications(tmp_path, arguments):
    page = Page(write(tmp_path, *example(**arguments)))
    assert "b" not in page.tags
    assert ("is taken off every certificate" in "".join(page.text)) == ("float_slack" in arguments)


def test_radii_without_end(tmp_path):
    summary, text, rows, _, images, pixel_max = example(average_certified_radius=None)
    rows["prediction"], rows["radius"] = rows["label"], np.inf
    page = Page(write(tmp_path, summary, text, rows, np.full(len(rows), np.inf), images, pixel_max))
    assert "radius ∞, rival" in "".join(page.text)
    assert "no attack found" in "".join(page.text)


@pytest.mark.parametrize("width", [1280, 400])
def test_in_a_browser(tmp_path, width):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    text = write(tmp_path, *example(classes=100, count=300))
    probe = "<script>document.title = `${document.documentElement.scrollWidth} ${innerWidth}`</script></body>"
    (tmp_path / "report.html").write_text(text.replace("</body>", probe))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", "--dump-dom"]
    output = subprocess.run([*command, f"file://{tmp_path}/report.html"], capture_output=True, text=True, timeout=120)
    scroll, inner = map(int, re.search(r"<title>(\d+) (\d+)</title>", output.stdout).groups())
    assert scroll <= inner
