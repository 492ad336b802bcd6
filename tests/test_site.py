"""The pages of the site: the reference has every public name, config.md says what the constructors say."""

import importlib
import importlib.util
import re
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PUBLIC = ("lipjax", "lipjax.ops", "lipjax.layers", "lipjax.models", "lipjax.certificates", "lipjax.data")
PUBLIC += ("lipjax.training.losses", "lipjax.interop", "lipjax.export")
ENTRIES = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)


def module_of(file):
    spec = importlib.util.spec_from_file_location(Path(file).stem, ROOT / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def named(path):
    """The object of 'package.module.name'."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_every_public_name_is_in_the_reference():
    there = {id(named(entry)) for entry in ENTRIES}
    names = {f"{package}.{name}": named(f"{package}.{name}") for package in PUBLIC for name in named_by(package)}
    missing = [name for name, value in names.items() if id(value) not in there and not is_module(value)]
    assert not missing, f"docs/api.md has no entry '::: …' of {missing}"
    assert len(names) > 100


def named_by(package):
    return importlib.import_module(package).__all__


def is_module(value):
    return isinstance(value, types.ModuleType)


def test_every_package_with_public_names_is_looked_at():
    stated = {path for path in (ROOT / "lipjax").rglob("*.py") if re.search(r"^__all__", path.read_text("utf-8"), re.M)}
    assert {".".join(path.parent.relative_to(ROOT).parts) for path in stated} == set(PUBLIC)


def test_an_entry_of_the_reference_stands_once_and_is_described():
    assert len(set(ENTRIES)) == len(ENTRIES)
    undescribed = [entry for entry in ENTRIES if callable(named(entry)) and not named(entry).__doc__]
    assert not undescribed


make_config = module_of("docs/make_config.py")


def test_the_page_of_keys_is_what_the_constructors_say_now():
    assert make_config.PAGE.read_text(encoding="utf-8") == make_config.page(), "run: python docs/make_config.py"


def test_every_key_of_every_constructor_is_described(monkeypatch):
    for section, owners in make_config.owners().items():
        for name, owner in owners.items():
            missing = set(make_config.defaults(owner)) - set(make_config.meanings_of(owner))
            assert not missing, (section, name, missing)
    monkeypatch.setattr(make_config.Run, "__doc__", make_config.Run.__doc__.replace("images a step", "pictures a step"))
    assert make_config.PAGE.read_text(encoding="utf-8") != make_config.page()


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if f" {page.name}\n" not in navigation]
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if page.name not in index and page.stem != "README"]


def test_version_is_that_of_the_package():
    import tomllib

    import lipjax

    with (ROOT / "pyproject.toml").open("rb") as file:
        assert lipjax.__version__ == tomllib.load(file)["project"]["version"]


@pytest.fixture(scope="module")
def hooks():
    for package in ("mkdocs", "latex2mathml"):
        pytest.importorskip(package)
    return module_of("docs/site_hooks.py")


PAGE = types.SimpleNamespace(file=types.SimpleNamespace(src_uri="page.md"))


def test_formulas_become_mathml_and_what_is_left_of_one_is_a_warning(hooks, caplog):
    formula = r'<p><span class="arithmatex">\(\lVert x\rVert &lt; 1\)</span></p>'
    content = hooks.on_page_content(formula, PAGE, None, None)
    assert "<math" in content
    assert "arithmatex" not in content
    assert not caplog.records
    assert "$x$" in hooks.on_page_content("<p>$x$ <code>$HOME</code></p>", PAGE, None, None)
    assert "a formula was not recognised: $x$" in caplog.text
    assert hooks.on_page_content("<p><code>$HOME</code></p>", PAGE, None, None)
    assert len(caplog.records) == 1


def test_a_notebook_is_a_page_with_its_pictures(hooks):
    page = hooks.notebook_page(ROOT / "notebooks" / "quickstart.ipynb")
    assert page.count("data:image/png;base64,") >= 3
    assert page.count("```python\n") >= 5
    assert page.startswith("# ")


def test_links_beside_docs_lead_to_pages(hooks):
    text = "[a](../notebooks/quickstart.ipynb) [b](../CONTRIBUTING.md) [c](use.md)"
    expected = "[a](notebooks/quickstart.md) [b](CONTRIBUTING.md) [c](use.md)"
    assert hooks.on_page_markdown(text, None, None, None) == expected
