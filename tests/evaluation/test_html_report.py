"""report.html: its numbers, its form, and that it needs nothing but itself."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import WIDTHS, check_basics, look
from PIL import Image

from lipjax.evaluation.html_report import Adversarial, Certified, extremes, write_html_report
from lipjax.evaluation.radius import Radius
from lipjax.evaluation.summary_table import lines
from lipjax.system import printed

DTYPE = np.dtype([("index", "i8"), *Radius.columns.items()])
VOID = {"meta", "img", "br", "input"}


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
        "epochs": 4,
        "date": "2026-11-26",
        "lipjax": "0.0",
        "params_sha256": "0123456789abcdef" * 4,
    } | changes
    if attack:
        summary["attack"] = {"strength": "fast", "steps": 10, "starts": 1, "robust_accuracy_upper_bound": {"0.5": 0.5}}
        summary["attack"]["domain"] = "images"
        summary["attack"]["detection_factor"] = 1.25
    images = rng.integers(0, 17, (count, 8, 8, channels)).astype(np.uint8)
    found = {}
    if attack:
        for i in [*extremes(rows)[0], *extremes(rows)[1]]:
            found[int(i)] = Adversarial(np.clip(images[i] / 16 + 0.3, 0, 1), int(rows["rival"][i]))
    config = {"model.name": "lipconvnet", "loss.name": "emma", "optimizer.name": "sgd"}
    config |= {"run.epochs": 4, "run.seed": 0, "run.radii": "36/255,0.5"}
    training = [{"epoch": n, "loss": 3 / n, "accuracy": 1 - 1 / n, "validation_accuracy": 0.5} for n in (1, 2, 3, 4)]
    return Certified(summary, rows, closest, images, 16, config, training, found)


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


def write(path, certified):
    write_html_report(path / "report.html", certified)
    return (path / "report.html").read_text()


def test_numbers(tmp_path):
    certified = example()
    summary, rows, closest = certified.summary, certified.rows, certified.closest
    page = Page(write(tmp_path, certified))
    everything = "\n".join(page.text)
    facts, told, arithmetic, classes, confusion, chain, config = page.tables
    assert told == [list(line) for line in lines(summary)]
    assert config == [[key, str(value)] for key, value in certified.config.items()]
    facts = {name: " ".join(value.split()) for name, value in facts}
    assert facts["data"].startswith(
        "digits, the first 60 of 61 images of the test split, at the radii 36/255, 0.5, with"
    )
    assert facts["network"] == "lipconvnet; loss emma, optimizer sgd, 4 of 4 epochs, seed 0"
    assert facts["certified"] == "on 2026-11-26 by lipjax 0.0, in 1 s"
    assert arithmetic[1] == ["float32", "1.50e-06", "1.00e-07", "2.00e-06"]
    for name in range(3):
        own = [row for row in rows if row["label"] == name]
        right = [row for row in own if row["prediction"] == name]
        reached = [sum(row["radius"] > r for row in own) for r in (36 / 255, 0.5)]
        assert classes[1 + name] == [
            f"<{name}> & co",
            str(len(own)),
            f"{100 * len(right) / len(own):.1f}",
            *(f"{100 * count / len(own):.1f}" for count in reached),
            printed.lower(np.mean([row["radius"] for row in own]), ".4f"),
        ]
        wrong = [str(sum(r["prediction"] == k for r in own)) if k != name else "·" for k in range(3)]
        assert confusion[1 + name] == [f"<{name}> & co", *wrong, str(len(right) - reached[0]), str(reached[0])]
    assert [row[0] for row in chain[1:]] == ["input", "stem", "head"]
    assert chain[2][2:4] == ["1.000000000", "1.912345"]
    by_radius = sorted((row for row in rows if row["label"] == row["prediction"]), key=lambda row: row["radius"])
    shown = [int(number) for number in re.findall(r"^image (\d+)$", everything, re.M)]
    assert shown == [row["index"] for row in [*by_radius[:8], *by_radius[::-1][:8]]]
    least = by_radius[0]
    told = f"radius {printed.lower(least['radius'], '.4f')}", f"rival <{least['rival']}> & co"
    told += (f"attack at {printed.upper(closest[shown[0]], '.4f')}",)
    start = everything.index(f"image {least['index']}\nclass <{least['label']}> & co")
    assert all(line in everything[start : start + 200].split("\n") for line in told)
    assert f"taken for <{least['rival']}> & co" in everything[start : start + 200].split("\n")
    assert confusion[0] == ["class", *(f"<{name}> & co" for name in range(3)), "not certified", "certified"]


def test_it_needs_nothing_else_and_is_the_same_each_time(tmp_path):
    text = write(tmp_path, example())
    page = Page(text)
    assert len(page.sources) == 24 + 16 + 2 * 16  # under the slider, at either end of the radii, attacked, the change
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not page.tags & {"link", "iframe", "object"}
    assert not re.search(r"https?:|url\(|@import|src=(?!\"data:)", text)
    assert text == write(tmp_path, example())


def test_what_an_attack_changed_is_drawn_from_the_smallest_to_the_largest_grey(tmp_path):
    certified = example()
    shown = extremes(certified.rows)[0][0]
    image = certified.images[shown] / certified.pixel_max
    found = certified.adversarial[shown]
    name = f"what the attack changed of image {certified.rows['index'][shown]}, "
    drawn = re.search(rf'alt="{name}([\d.e+]+) times" src="data:image/png;base64,([^"]*)"', write(tmp_path, certified))
    assert drawn is not None
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(drawn[2]))), np.float64) / 255
    change = found.image - image
    assert float(drawn[1]) * np.abs(change).max() == pytest.approx(0.5, rel=0.01)
    np.testing.assert_allclose(pixels, 0.5 + 0.5 * change / np.abs(change).max(), atol=0.51 / 255)


def test_the_slider_knows_how_many_images_are_certified_at_each_of_its_radii(tmp_path):
    certified = example()
    data = json.loads(re.search(r"const data = (.*);", write(tmp_path, certified))[1])
    radius, closest = certified.rows["radius"], certified.closest
    assert 100 <= len(data["radii"]) <= 250
    assert data["radii"][data["start"]] == pytest.approx(36 / 255, abs=0.003)
    assert data["certified"] == [int(sum(radius > r)) for r in data["radii"]]
    assert data["attacked"] == [int(sum(closest > r)) if r <= 0.5 else None for r in data["radii"]]
    assert data["radii"][-1] >= radius.max()


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
    page = Page(write(tmp_path, example(**arguments)))
    assert "b" not in page.tags
    assert ("is taken off every certificate" in "".join(page.text)) == ("float_slack" in arguments)


def test_radii_without_end(tmp_path):
    certified = example(average_certified_radius=None)
    rows = certified.rows
    rows["prediction"], rows["radius"] = rows["label"], np.inf
    page = Page(write(tmp_path, certified._replace(closest=np.full(len(rows), np.inf), adversarial={})))
    assert "radius ∞" in page.text
    assert "no attack found" in page.text


def test_without_a_config_and_a_training_the_page_says_nothing_of_them(tmp_path):
    page = Page(write(tmp_path, example()._replace(config=None, training=())))
    assert not {"Training", "Config"} & set(page.text)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_in_a_browser_everything_can_be_read(tmp_path, width, dark):
    write(tmp_path, example())
    seen = look(tmp_path / "report.html", tmp_path, width, dark)
    check_basics(seen, width)
    assert seen["page"] == ("rgb(22, 24, 28)" if dark else "rgb(255, 255, 255)")
    assert min(min(size[2:]) for size in seen["images"]) >= 72  # an image can be recognised
    for row in seen["rows"]:  # no row of images has fewer than the others
        tops = [round(box[1]) for box in row]
        assert len({tops.count(top) for top in tops}) == 1
    assert not [text for text, lines_of_text in seen["captions"] if lines_of_text > 1.5]  # none is broken
    page = [22, 24, 28] if dark else [255, 255, 255]
    mistaken = [shade for text, shade in seen["shades"][1:] if text.isdigit() and int(text) and shade != page]
    assert 0 < len(mistaken) < len(seen["shades"])
    assert all(shade == page for text, shade in seen["shades"] if text == "0")
    assert seen["charts"] == 4  # accuracy, radii, and two of the training


def test_in_a_browser_many_classes_scroll_with_a_hint(tmp_path):
    write(tmp_path, example(classes=100, count=300))
    seen = look(tmp_path / "report.html", tmp_path, 400)
    check_basics(seen, 400)
    assert any(is_cut for is_cut, _ in seen["cut"])


def test_in_a_browser_the_slider_tells_what_is_certified_at_its_radius(tmp_path):
    certified = example()
    write(tmp_path, certified)
    moved = """(() => {
      slider.value = 2 * data.start; slider.dispatchEvent(new Event("input"));
      return {told: document.getElementById("told").textContent, radius: data.radii[2 * data.start],
        x: Number(marker.getAttribute("x1")),
        faint: [...document.querySelectorAll("#gallery figure")].map(f => [Number(f.dataset.radius),
          f.classList.contains("uncertified")])};
    })()"""
    found = look(tmp_path / "report.html", tmp_path, 400, probe=moved)["probed"]
    radius, count = found["radius"], len(certified.rows)
    reached, left = sum(certified.rows["radius"] > radius), sum(certified.closest > radius)
    assert found["told"] == (
        f"l2 radius {radius:g}: certified {100 * reached / count:.1f} % ({reached} of {count}); "
        f"the attack leaves {100 * left / count:.1f} % ({left} of {count})"
    )
    assert len(found["faint"]) == 24
    assert all(faint == (not own > radius) for own, faint in found["faint"])
    assert 44 < found["x"] < 322
