"""docs/layers.md from the docstrings of the layers: what each computes, its bound, its rounding, its source.

    python docs/make_layers.py

The docstring of a class starts with its formula and has paragraphs "Bound:", "Source:" and, unless that of its `proof`
has one, "Rounding:"; tests/test_layers_page.py compares the page with the docstrings as they are.
"""

import dataclasses
import inspect
import re
from pathlib import Path

from lipjax import layers
from lipjax.layers.skew_orthogonal_conv import DEFAULT_POLYNOMIAL
from lipjax.system.files import atomic_write

PAGE = Path(__file__).with_name("layers.md")

GROUPS = {
    "Inputs and shapes": (
        "InputScale",
        "SpaceToDepth",
        "Patches",
        "ZeroPad",
        "FirstChannels",
        "ZerosAround",
        "TakeChannels",
        "Flatten",
        "Unflatten",
        "Position",
        "Shift",
    ),
    "Orthogonal and 1-Lipschitz convolutions": (
        *("SkewOrthogonalConv", "FoldedConv", "CayleyConv", "BlockReflectorConv", "OrthogonalMixing", "ShiftMixing"),
        *("PatchConv", "AlmostOrthogonalConv", "ConvexPotential", "SdpResidual"),
    ),
    "Free convolutions": ("ResidualConv", "StridedConv", "PlainConv", "FrequencyConv", "Affine", "Centring"),
    "Dense": ("OrthogonalDense", "PlainDense"),
    "Activations": ("MaxMin", "BetaAbs", "NActivation", "Householder", "Householder2", "Activation"),
    "Poolings": (
        *("MaxPool", "ProjectionPool", "PolylinePool", "PointPool", "L2Pool", "GlobalL2Pool"),
        *("WindowMax", "AveragePool", "GlobalAveragePool"),
    ),
    "Containers": ("Sequential", "Residual", "Sum", "Concatenate", "Split", "Recomputed"),
    "Heads": ("LastLayerNormalization", "CurvatureHead", "LinearHead"),
}
BASES = (layers.Layer, layers.Container, layers.Head)

_HEADER = r"""# Layers and heads

Written by `python docs/make_layers.py` from the docstrings; edit those. A layer maps arrays (N, …) to arrays (N, …),
images NHWC. *Bound*: $L$ with $\lVert f(u) - f(v)\rVert \le L\,\lVert u - v\rVert$ for all $u, v$, proven of the very
variables of the layer in float64 and rounded up. *Rounding*: what the executed program may be off by, in units of
roundoff relative to $\lVert v\rVert$, for any order of sums within a block ([soundness.md](soundness.md)). *Bound* of a
head: that by which a distance of features changes its logits. How layers are put together:
[own_networks.md](own_networks.md).
"""

_LABELS = ("Bound", "Rounding", "Source")
_SECTIONS = ("Attributes:", "Raises:", "Args:", "Returns:")
_METHODS = ("estimate", "projected", "settled", "tightened", "folded")
_MEANT = {
    "estimate": "`estimate` gives losses the bound as of now",
    "projected": "`projected` after each step",
    "settled": "`settled`: tracked norms or matrices catch up",
    "tightened": "`tightened` after training",
    "folded": "`folded` for evaluation",
}


def public() -> dict[str, type]:
    """The layers and heads that `lipjax.layers` exports, by name, without those that are only bases."""
    classes = {name: getattr(layers, name) for name in layers.__all__}
    return {
        name: kind
        for name, kind in classes.items()
        if inspect.isclass(kind) and issubclass(kind, (layers.Layer, layers.Head)) and kind not in BASES
    }


def described(kind: type) -> dict[str, str]:
    """What the docstrings of a class say: 'what' it computes, 'Bound', 'Proof', 'Rounding', 'Source', 'Attributes'."""
    found = dict.fromkeys(("what", "Bound", "Proof", "Rounding", "Source", "Attributes"), "")
    texts = [("what", inspect.getdoc(kind))]
    texts += [(label, _own_doc(kind, name)) for label, name in (("Proof", "proof"), ("Rounding", "rounding"))]
    for rest, text in texts:
        label = rest
        for paragraph in filter(None, (text or "").strip().split("\n\n")):
            first = re.match(r"(\w+)(?: \(([^)]*)\))?: ?", paragraph)
            if paragraph.startswith(_SECTIONS):
                label = "Attributes" if paragraph.startswith("Attributes:") else ""
                paragraph = paragraph.split("\n", 1)[1]
            elif first and first[1] in _LABELS:
                label, paragraph = first[1], (f"({first[2]}) " if first[2] else "") + paragraph[first.end() :]
            elif not paragraph.startswith("    "):  # a formula belongs to what is before it
                label = rest
            if label:
                found[label] += ("\n\n" if found[label] else "") + paragraph
    return found


def _own_doc(kind: type, name: str) -> str:
    """The docstring of a method where the class has one of its own, '' where only its bases have."""
    method = vars(kind).get(name)
    return inspect.cleandoc(method.__doc__) if method is not None and method.__doc__ else ""


def signature(kind: type) -> str:
    """Name(field=default, …), without the fields of every module."""
    fields = [field for field in dataclasses.fields(kind) if field.name not in ("parent", "name")]
    return f"{kind.__name__}({', '.join(map(_field, fields))})"


def _field(field: dataclasses.Field) -> str:
    if field.default is dataclasses.MISSING:
        return field.name
    shown = "DEFAULT_POLYNOMIAL" if field.default == DEFAULT_POLYNOMIAL else repr(field.default)
    return f"{field.name}={shown}"


def training(kind: type) -> str:
    """What training and evaluation do with the variables of such a layer."""
    decayed = ", ".join(f"`{name}`" for name in kind.decayed)
    said = [f"weight decay on {decayed}"] if decayed else []
    base = layers.Container if issubclass(kind, layers.Container) else layers.Layer
    for name in _METHODS if issubclass(kind, layers.Layer) and base is layers.Layer else ():
        maker = next(cls for cls in kind.__mro__ if name in vars(cls))
        if maker is not base:
            first = _own_doc(maker, name).split("\n\n")[0].replace("\n", " ").rstrip(".")
            said.append(_MEANT[name] + (f" ({_escaped(first[:1].lower() + first[1:])})" if first else ""))
    return "; ".join(said)


def _escaped(text: str) -> str:
    """Text for Markdown: what would be a sign of it, outside of `code`, is escaped."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([*_<>|\[\]\\#~$])", r"\\\1", part) for part in parts[::2]]
    parts[::2] = [re.sub(r"\\\*(\w+)\\\*", r"*\1*", part) for part in parts[::2]]  # emphasis
    return "`".join(parts)


def _paragraphs(text: str) -> str:
    """As Markdown: formulas (indented) as blocks, lists as lists."""
    done = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("    "):
            done.append(paragraph)
        else:
            lines = _escaped(paragraph).split("\n")
            done.append("\n".join(re.sub(r"^\\\* ", "* ", line) for line in lines))
    return "\n\n".join(done)


def _attributes(text: str) -> list[str]:
    """One list entry for each attribute."""
    entries = re.split(r"\n(?=\S)", inspect.cleandoc(text))
    found = []
    for entry in entries:
        name, meaning = entry.split(":", 1)
        found.append(f"* `{name}`: {_escaped(' '.join(meaning.split()))}")
    return found


def entry(kind: type) -> str:
    """What the page says of one class."""
    parts = described(kind)
    lines = [f"### {kind.__name__}", "", f"`{signature(kind)}`", "", _paragraphs(parts["what"]), ""]
    if parts["Attributes"]:
        lines += [*_attributes(parts["Attributes"]), ""]
    for label in ("Bound", "Proof", "Rounding", "Source"):
        if parts[label]:
            lines += [f"**{label}**: {_paragraphs(parts[label])}", ""]
    if training(kind):
        lines += [f"**In training and after**: {training(kind)}.", ""]
    return "\n".join(lines)


def page() -> str:
    """The text of docs/layers.md."""
    classes, lines = public(), [_HEADER]
    for group, names in GROUPS.items():
        links = ", ".join(f"[{name}](#{name.lower()})" for name in names)
        lines.append(f"* {group}: {links}")
    lines.append("")
    for group, names in GROUPS.items():
        lines += [f"## {group}", "", *(entry(classes[name]) for name in names)]
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    atomic_write(PAGE, page())
