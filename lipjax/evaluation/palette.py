"""The colours of every figure: one thing has one colour in reports, notebooks and docs, in light and in dark."""

from typing import NamedTuple


class Colour(NamedTuple):
    """One thing's colour on a light and on a dark page, each of contrast 4.5 : 1 at least to the page (WCAG 2.1)."""

    light: str
    dark: str


PAGE = Colour("#ffffff", "#16181c")
TEXT = Colour("#1a1a1a", "#e8e8e8")
QUIET = Colour("#5b6068", "#a9b0ba")  # axes, notes
CERTIFIED = Colour("#0b61a4", "#6cb4f5")  # what is proven, and the first run
ATTACKED = Colour("#b4460a", "#ff9e64")  # what an attack leaves, and the second
RUNS = (CERTIFIED, ATTACKED, Colour("#1b7837", "#69c882"), Colour("#762a83", "#d19be0"), Colour("#8a6100", "#e2bb4e"))
BAND = 0.15  # the opacity of the band between the two, in the colour of the attack


def variables() -> dict[str, Colour]:
    """The names of the colours in the style sheet of a page, without --."""
    named = {"page": PAGE, "text": TEXT, "quiet": QUIET, "certified": CERTIFIED, "attacked": ATTACKED}
    return named | {f"run-{number}": colour for number, colour in enumerate(RUNS)}
