"""docs/layers.md is what the docstrings of the layers say, and says all that it should of every one."""

import importlib.util
from pathlib import Path

import pytest

from lipjax.layers import Head, Layer

_FILE = Path(__file__).parents[1] / "docs" / "make_layers.py"
_SPEC = importlib.util.spec_from_file_location("make_layers", _FILE)
make_layers = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(make_layers)
PUBLIC = make_layers.public()


def test_the_page_is_what_the_docstrings_say_now():
    assert make_layers.PAGE.read_text(encoding="utf-8") == make_layers.page(), "run: python docs/make_layers.py"


def test_every_public_layer_and_head_stands_on_the_page_once():
    names = [name for group in make_layers.GROUPS.values() for name in group]
    assert sorted(names) == sorted(PUBLIC)
    headings = [line[4:] for line in make_layers.page().splitlines() if line.startswith("### ")]
    assert headings == names


@pytest.mark.parametrize("name", PUBLIC)
def test_a_layer_says_what_it_computes_its_bound_its_rounding_and_its_source(name):
    said = make_layers.described(PUBLIC[name])
    missing = [label for label in ("what", "Bound", "Rounding", "Source") if not said[label]]
    assert not missing, f"{name}: its docstring has no {missing}"


@pytest.mark.parametrize("name", PUBLIC)
def test_every_field_of_a_layer_is_described(name):
    said, kind = make_layers.described(PUBLIC[name])["Attributes"], PUBLIC[name]
    fields = {field for base in kind.__mro__ if issubclass(base, (Layer, Head)) for field in base.__annotations__}
    own = {field for field in fields if f"{field}=" in (s := make_layers.signature(kind)) or f"({field}" in s}
    assert not [field for field in own if f"{field}:" not in said and f"{field}, " not in said]


def test_a_page_without_a_change_of_a_docstring_is_seen_as_old(monkeypatch):
    monkeypatch.setattr(PUBLIC["MaxMin"], "__doc__", "x itself.\n\nBound: 2.")
    assert make_layers.PAGE.read_text(encoding="utf-8") != make_layers.page()
