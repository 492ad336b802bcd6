"""What mkdocs does not do by itself: pages from outside of docs/, and formulas as MathML, which needs no script.

mkdocs.yml names this file; `make site` builds the site, and every warning of it is an error.
"""

import html
import logging
import re
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md")
NOTEBOOKS = ("quickstart", "own_network", "tour_of_the_paper")

_log = logging.getLogger("mkdocs.plugins.site_hooks")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_CODE = re.compile(r"<(pre|code|math)\b.*?</\1>", re.DOTALL)


def on_files(files, config):
    """CONTRIBUTING.md, CHANGELOG.md and the notebooks, which lie beside docs/, are pages too."""
    for name in PAGES:
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](").replace("](README.md", "](README.md")
        files.append(File.generated(config, name, content=text))
    for name in NOTEBOOKS:
        path = ROOT / "notebooks" / f"{name}.ipynb"
        files.append(File.generated(config, f"notebooks/{name}.md", content=notebook_page(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to what lies beside docs/ lead to the pages made of it."""
    del page, config, files
    return re.sub(r"\]\(\.\./(notebooks/\w+)\.ipynb", r"](\1.md", markdown).replace("](../", "](")


def on_page_content(content, page, config, files):
    """Formulas as MathML; a formula that was not found, or cannot be read, is a warning."""
    del config, files

    def mathml(match):
        display = "block" if match[1] == "div" else "inline"
        try:
            return convert(html.unescape(match[2]).replace(r"\boxed", ""), display=display)
        except Exception as error:  # the parser has errors of many kinds
            _log.warning("%s: cannot read the formula %s: %r", page.file.src_uri, match[2], error)
            return match[0]

    content = _FORMULA.sub(mathml, content)
    if left := re.search(r".{0,40}\$.{0,40}", re.sub(r"<[^>]*>", "", _CODE.sub("", content))):
        _log.warning("%s: a formula was not recognised: %s", page.file.src_uri, left[0])
    return content


def notebook_page(path):
    """Markdown of a saved notebook: its text, its code, what it printed and drew."""
    lines = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            lines.append(cell.source)
            continue
        lines.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                lines.append(
                    f'<img alt="picture" src="data:image/png;base64,{data["image/png"].replace(chr(10), "")}">'
                )
            elif "text/markdown" in data:
                lines.append(data["text/markdown"])
            else:
                lines.append(f"```text\n{output.get('text') or data.get('text/plain', '')}\n```")
    return "\n\n".join(lines) + "\n"
