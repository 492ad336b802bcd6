import csv
import hashlib
import json
import shutil

import numpy as np
import pytest
from browser import WIDTHS, check_basics, look
from conftest import quiet
from test_html_report import Page

import lipjax
from lipjax.evaluation.split import certify_run
from lipjax.system import printed


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    """(one, other): one is certified and attacked; the other is it with some radii and a key of the config changed."""
    folder = tmp_path_factory.mktemp("compared")
    one = shutil.copytree(trained[0], folder / "one")
    certify_run(one, say=quiet, num_examples=120, radii="0.1,0.25", attack="fast")
    return one, changed(one, folder / "other")


def changed(workdir, target, images_sha256=None):
    shutil.copytree(workdir, target)
    place = target / "certificates"
    summary = json.loads((place / "summary.json").read_text())
    names, *rows = csv.reader((place / "per_image.csv").read_text().splitlines())
    at = names.index("radius")
    for number, row in enumerate(rows):
        if number % 5:
            row[at] = repr(0.5 * float(row[at]))
    text = "\n".join(map(",".join, [names, *rows])) + "\n"
    (place / "per_image.csv").write_text(text)
    summary |= {"per_image_sha256": hashlib.sha256(text.encode()).hexdigest(), "certified_accuracy": {"0.2": 0.0}}
    summary |= {"attack": None} | ({"images_sha256": images_sha256} if images_sha256 else {})
    (place / "summary.json").write_text(json.dumps(summary))
    config = json.loads((target / "config.json").read_text())
    config["optimizer"]["learning_rate"] = 0.125
    (target / "config.json").write_text(json.dumps(config))
    return target


def radii_of(workdir):
    with (workdir / "certificates" / "per_image.csv").open() as file:
        return np.array([float(row["radius"]) for row in csv.DictReader(file)])


def test_numbers_of_all_runs_stand_side_by_side_at_the_radii_of_each(runs, tmp_path):
    path = lipjax.compare(*runs, output=tmp_path / "page.html")
    assert path == tmp_path / "page.html"
    page = Page(path.read_text())
    numbers, shares, configs = page.tables
    told = {name: values for name, *values in numbers[1:]}
    one, other = map(radii_of, runs)
    assert numbers[0] == ["", "one", "other"]
    for radius in (0.1, 0.2, 0.25):
        assert told[f"certified at {radius}"] == [f"{np.mean(own > radius):.2%}" for own in (one, other)]
    assert told["the attack leaves at 0.1"][1] == "–"
    assert told["average certified radius"] == [printed.lower(own.mean(), ".4f") for own in (one, other)]
    a, b = one > 0.1, other > 0.1
    assert shares[1] == ["other", *(str(n.sum()) for n in (a & b, a & ~b, ~a & b, ~a & ~b))]
    assert configs[1:] == [["optimizer.learning_rate", configs[1][1], "0.125"]]
    shown = [int(line.split()[1].rstrip(",")) for line in page.text if line.startswith("image ")]
    assert shown == np.argsort(-abs(one - other), kind="stable")[: len(shown)].tolist()
    assert len(shown) == len(page.sources) == 12
    assert f"other: {printed.lower(other[shown[0]], '.4f')}" in page.text


def test_by_default_the_page_lies_in_the_first_folder_and_is_the_same_each_time(runs):
    path = lipjax.compare(*runs)
    assert path == runs[0] / "comparison.html"
    before = path.read_bytes()
    assert lipjax.compare(*map(str, runs)).read_bytes() == before


def test_a_run_is_compared_with_itself(runs, tmp_path):
    page = Page(lipjax.compare(runs[0], runs[0], output=tmp_path / "page.html").read_text())
    assert {"Nothing.", "On none."} <= set(page.text)
    assert page.tables[0][0] == ["", f"{runs[0]} (1)", f"{runs[0]} (2)"]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_in_a_browser_everything_can_be_read(runs, tmp_path, width, dark):
    seen = look(lipjax.compare(*runs, output=tmp_path / "page.html"), tmp_path, width, dark)
    check_basics(seen, width)
    for row in seen["rows"]:
        tops = [round(box[1]) for box in row]
        assert len({tops.count(top) for top in tops}) == 1


def test_what_cannot_be_compared_is_refused_in_one_line(runs, trained, tmp_path):
    one, other = runs
    with pytest.raises(ValueError, match=r"workdirs=\('[^']*one',\): must be 2 to 5 runs"):
        lipjax.compare(one)
    with pytest.raises(FileNotFoundError, match=r"has no certificates/summary.json: certify.py --workdir="):
        lipjax.compare(one, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no certificates_train/summary.json: .* --split=train makes it"):
        lipjax.compare(one, other, split="train")
    of_others = changed(one, tmp_path / "of_others", images_sha256="0")
    with pytest.raises(ValueError, match="its certificates are of other images: 120 images of digits, test split in"):
        lipjax.compare(one, of_others)
    broken = changed(one, tmp_path / "broken")
    (broken / "certificates" / "per_image.csv").write_text("index\n0\n")
    with pytest.raises(ValueError, match="per_image.csv is not the one that summary.json is of"):
        lipjax.compare(one, broken)


def test_where_the_images_cannot_be_read_the_page_says_why(runs, tmp_path):
    alone = shutil.copytree(runs[0], tmp_path / "alone")
    shutil.rmtree(alone / "checkpoints")
    page = Page(lipjax.compare(alone, runs[1], output=tmp_path / "page.html").read_text())
    assert page.sources == []
    assert any(text.startswith("Not shown: ") for text in page.text)
