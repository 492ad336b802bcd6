"""The Python of README.md and CONTRIBUTING.md runs as it stands."""

import re
import shlex
import types
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny_config

import lipjax
from lipjax.commands import configs
from lipjax.data import load
from lipjax.layers import CONVOLUTIONS
from lipjax.training.loop import train
from lipjax.training.losses import LOSSES
from lipjax.training.recipe import Recipe
from lipjax.workdir import load_trained

ROOT = Path(__file__).parent.parent


def blocks_of(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def executed(source: str) -> dict:
    module = types.ModuleType("of_a_page")
    exec(compile(source, "of_a_page", "exec"), vars(module))
    return vars(module)


def test_the_first_screen_prints_what_stands_below_it(capsys):
    first, _ = blocks_of("README.md")
    executed(first)
    assert f"```\n{capsys.readouterr().out}```" in (ROOT / "README.md").read_text()


def test_its_network_is_trained_and_certified(tmp_path):
    _, source = blocks_of("README.md")
    (tmp_path / "my_net.py").write_text(source)
    config = tiny_config()
    config.model = {"name": f"{tmp_path / 'my_net.py'}:network", "channels": 4}
    train(config, tmp_path / "run", say=lambda line: None)
    trained = load_trained(tmp_path / "run")
    dataset, proven = trained.dataset(), trained.prove()
    images = dataset.test.images[:20].astype("float32") / dataset.pixel_max
    assert proven.lipschitz_bound == pytest.approx(1 / 0.35, rel=1e-6)
    assert proven.certify(images, dataset.test.labels[:20]).radius.max() > 0


PAGES = ("README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))))


def commands_of(page: str) -> list[list[str]]:
    """The arguments of each train.py in the code blocks of a page."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    blocks = "\n".join(block for language, block in found if not language)
    lines = [shlex.split(line, comments=True) for line in blocks.replace("\\\n", " ").splitlines() if "train" in line]
    of_scripts = ((line, [word in ("train.py", "lipjax-train") for word in line]) for line in lines)
    return [line[is_script.index(True) + 1 :] for line, is_script in of_scripts if True in is_script]


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_pages_have_configs_that_fit_together(page, tmp_path, monkeypatch):
    """Loss, head, optimiser and network of each training that a page tells the reader to type."""
    monkeypatch.chdir(ROOT)
    (tmp_path / "my_net.py").write_text(blocks_of("README.md")[1], encoding="utf-8")
    for given in commands_of(page):
        overrides, others = configs.split_overrides(
            [word.replace("my_net.py", f"{tmp_path}/my_net.py") for word in given]
        )
        overrides = {key: "1" if text == "SEED" else text for key, text in overrides.items()}
        name = next(word.removeprefix("--config=") for word in others if word.startswith("--config="))
        config = configs.read(name, overrides)
        shape = (8, 8, 1) if "digits" in name else (32, 32, 3)
        Recipe.of(config).model(shape, 10)


def test_the_pages_have_commands():
    assert sum(len(commands_of(page)) for page in PAGES) >= 15


def test_a_convolution_is_one_file_and_one_line(tmp_path, monkeypatch, rng):
    layer, check, _ = blocks_of("CONTRIBUTING.md")
    names = executed(layer)
    exec(compile(check, "CONTRIBUTING.md", "exec"), names)
    names["test_no_distance_grows_by_more_and_some_by_almost_as_much"](rng)
    names["test_float32_is_off_by_no_more_than_its_rounding"](rng)
    monkeypatch.setitem(CONVOLUTIONS, "normalised", names["NormalisedConv"])
    config = tiny_config()
    config.model.convolution = "normalised"
    state = train(config, tmp_path, say=lambda line: None)
    assert state.params["stem"]["kernel"].shape == (1, 2)
    trained = load_trained(tmp_path)
    dataset, model, variables = trained.dataset(), trained.model, trained.variables
    certificate = lipjax.certify(model, variables, np.float32(dataset.test.images[:20] / 16), dataset.test.labels[:20])
    assert 0 < model.lipschitz_bound(variables) < 4 * 1.01
    assert (certificate.radius.shape, certificate.protocol) == ((20,), "proof")


def test_a_loss_is_one_class_and_one_line(tmp_path, monkeypatch):
    *_, loss = blocks_of("CONTRIBUTING.md")
    monkeypatch.setitem(LOSSES, "margin", executed(loss)["Margin"])
    config = tiny_config()
    config.loss = {"name": "margin", "weight": 0.1}
    config.run.epochs = 1
    assert int(train(config, tmp_path, say=lambda line: None).step) == len(load("digits").train.labels) * 4 // 5 // 256
    config.loss.weight = 0.2
    with pytest.raises(ValueError, match=r"loss\.weight: 0\.1 there, 0\.2 now"):
        train(config, tmp_path, say=lambda line: None)


def test_the_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
