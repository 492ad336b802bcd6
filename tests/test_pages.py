"""Every Python block of the pages of docs/ runs as it stands, in order, in a folder of its own."""

import importlib.util
import re
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN, quiet, tiny_config
from PIL import Image

from lipjax.evaluation.split import certify_run
from lipjax.export import export_run
from lipjax.interop import from_pytorch
from lipjax.training.loop import train
from lipjax.workdir import load_trained

DOCS = Path(__file__).parent.parent / "docs"
_BLOCK = re.compile(r"^```(?:python|py)\b[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks_of(page: Path) -> list[str]:
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


PAGES = {page.name: blocks for page in sorted(DOCS.glob("*.md")) if (blocks := blocks_of(page))}


def run_of(request, name):
    """A copy of a tiny run in the current folder, as runs/NAME."""
    workdir = Path("runs") / name
    shutil.copytree(request.getfixturevalue("trained")[0], workdir)
    return workdir


def for_own_data(request):
    """Arrays of two classes, a run and two pictures."""
    run_of(request, "own")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(160, 8, 8, 1), dtype=np.uint8)
    Image.fromarray(images[0, ..., 0]).save("a.png")
    Image.fromarray(images[1, ..., 0]).save("b.jpg")
    labels = np.arange(160) % 2
    return {"images": images, "labels": labels, "test_images": images[:6] ^ 1, "test_labels": labels[:6]}


def for_interop(request):
    """A network of the authors' program, and images."""
    del request
    with np.load(GOLDEN / "net.npz") as golden:
        state = {name[2:]: golden[name].astype(np.float32) for name in golden.files if name.startswith("p.")}
    np.savez("model.npz", **state)
    spec = importlib.util.spec_from_file_location("of_liresnet", Path(__file__).parent / "interop/liresnet_program.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    np.savez("net.npz", **program.state(np.random.default_rng(0), side=16))
    images = np.random.default_rng(0).uniform(size=(2, *from_pytorch(state)[0].image_shape))
    return {"images": images.astype(np.float32), "labels": np.zeros(2, int)}


def for_use(request):
    """Two runs that have certified the same images."""
    for name in ("digits", "other"):
        certify_run(run_of(request, name), None, quiet, num_examples=5)
    return {}


def for_export(request):
    """A network in each of the files that can be written here, and images."""
    workdir = run_of(request, "digits")
    for to in ("npz", "stablehlo", "onnx", "torch"):
        if all(map(importlib.util.find_spec, importlib.import_module(f"lipjax.export.{to}").PACKAGES)):
            name = {"torch": "pt2"}.get(to, to)
            export_run(workdir, to, f"network.{name}", num_examples=5, say=quiet)
    return {"images": np.random.default_rng(0).uniform(size=(2, *load_trained(workdir).data.image_shape))}


def for_pooling(request):
    """A run with polylines."""
    del request
    config = tiny_config()
    config.model.pooling, config.run.epochs = "polyline", 1
    train(config, "runs/polyline", say=quiet)
    return {"workdir": "runs/polyline"}


class Wandb(types.ModuleType):
    """What docs/ecosystem.md uses of Weights & Biases, which needs a network and an account."""

    def __init__(self):
        super().__init__("wandb")
        self.logged = []

    def init(self, project, config):
        assert project
        assert config["loss"]["name"] == "emma"
        return types.SimpleNamespace(log=lambda record, step: self.logged.append((step, record)), finish=lambda: None)


PREPARED = {"own_data.md": for_own_data, "interop.md": for_interop, "pooling.md": for_pooling}
PREPARED |= {"use.md": for_use, "export.md": for_export}
NEEDED = {"ecosystem.md": ("pandas", "tensorboardX")}


SLOW = ("pooling.md",)  # trains a network of polylines


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in PAGES]
)
def test_the_blocks_of_a_page_run_in_order(name, request, tmp_path, monkeypatch):
    for package in NEEDED.get(name, ()):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    page = types.ModuleType("of_a_page")
    vars(page).update(PREPARED[name](request) if name in PREPARED else {})
    for number, block in enumerate(PAGES[name], start=1):
        first = re.match(r"import (\w+)  # \w+$", block, re.MULTILINE)
        if first and importlib.util.find_spec(first[1]) is None:  # of a package that is needed for this block alone
            continue
        exec(compile(block, f"{name}, block {number}", "exec"), vars(page))
    if name == "ecosystem.md":
        (step, record), *others = wandb.logged
        assert (step, others) == (1, [])
        assert {"epoch", "loss", "accuracy", "validation_certified_estimate_0.5"} <= set(record)


def test_no_python_of_a_page_escapes():
    """Fences that name Python in another way, or are indented, would not be run."""
    for page in DOCS.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        assert len(re.findall(r"^ *```[ {.]*py", text, re.MULTILINE)) == len(PAGES.get(page.name, ())), page.name


def test_the_prepared_pages_have_blocks():
    assert set(PREPARED) | set(NEEDED) <= set(PAGES)
