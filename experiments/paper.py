"""The numbers of the paper, and of the authors' program at our small scale.  Accuracies in %, times in seconds."""

from typing import NamedTuple

RADII = ("36/255", "72/255", "108/255")


class Times(NamedTuple):
    """A row of Table 1, seconds an epoch; reduction in % as printed."""

    ours: float
    previous: float
    reduction: float


class Accuracies(NamedTuple):
    """Standard and certified accuracy at 36, 72 and 108 over 255; None where the paper's body does not say."""

    standard: float
    certified_36: float
    certified_72: float | None = None
    certified_108: float | None = None

    def certified(self) -> tuple[float | None, ...]:
        """In the order of `RADII`."""
        return self[1:]


# Table 1, CIFAR-10, one RTX 2080 Ti: n of LipConvnet-n (it has n + 1 SOC layers) → time.  'Ours' is the fast gradient,
# 'Previous' the exact one.  Table 8 (CIFAR-100) is in the appendix.
TABLE_1 = {
    5: Times(25.34, 30.63, -17.27),
    10: Times(37.11, 48.44, -23.39),
    15: Times(49.27, 66.74, -26.17),
    20: Times(61.59, 83.18, -25.96),
    25: Times(71.51, 100.70, -28.99),
    30: Times(84.00, 119.55, -29.74),
    35: Times(95.06, 137.10, -30.66),
    40: Times(106.01, 156.25, -32.16),
}

# Table 3, CIFAR-10.  Depths 5 and 10 are those of Table 1: 'Previous' is the baseline, 'Ours' is '+ CRC'; the rest of
# them is in the appendix's Table 5.
TABLE_3 = {
    (5, "Baseline"): Accuracies(76.68, 60.09),
    (5, "+ CRC"): Accuracies(79.36, 67.13),
    (10, "Baseline"): Accuracies(77.73, 62.82),
    (10, "+ CRC"): Accuracies(79.57, 66.75),
    (15, "Baseline"): Accuracies(77.78, 62.75, 46.34, 31.38),
    (15, "+ Fast"): Accuracies(77.75, 62.52, 46.23, 31.19),
    (15, "+ CRC"): Accuracies(79.44, 66.99, 52.56, 38.30),
    (20, "Baseline"): Accuracies(77.50, 63.31, 46.42, 31.53),
    (20, "+ Fast"): Accuracies(77.13, 62.05, 45.86, 31.13),
    (20, "+ CRC"): Accuracies(79.13, 66.45, 52.45, 38.12),
    (25, "Baseline"): Accuracies(77.18, 62.46, 45.78, 31.16),
    (25, "+ Fast"): Accuracies(76.94, 61.91, 45.59, 30.69),
    (25, "+ CRC"): Accuracies(79.19, 66.28, 51.74, 37.99),
    (30, "Baseline"): Accuracies(74.43, 59.65, 43.76, 29.16),
    (30, "+ Fast"): Accuracies(74.69, 58.84, 43.33, 28.93),
    (30, "+ CRC"): Accuracies(78.64, 66.05, 51.31, 37.30),
    (35, "Baseline"): Accuracies(72.73, 57.18, 42.08, 28.09),
    (35, "+ Fast"): Accuracies(72.91, 57.58, 41.52, 27.37),
    (35, "+ CRC"): Accuracies(78.57, 65.94, 52.04, 37.63),
    (40, "Baseline"): Accuracies(71.33, 55.74, 39.32, 26.06),
    (40, "+ Fast"): Accuracies(71.60, 56.15, 39.82, 25.63),
    (40, "+ CRC"): Accuracies(78.41, 65.51, 51.32, 37.30),
}

# Table 4, CIFAR-100, certified against the nine rivals of largest logit.  Depths 5 and 10 are in the appendix.
TABLE_4 = {
    (15, "Baseline"): Accuracies(48.06, 34.52, 23.08, 14.70),
    (15, "+ Fast"): Accuracies(47.97, 33.84, 22.66, 14.26),
    (15, "+ CRC"): Accuracies(50.79, 37.50, 26.16, 17.27),
    (20, "Baseline"): Accuracies(47.37, 33.99, 23.40, 14.69),
    (20, "+ Fast"): Accuracies(46.41, 33.07, 22.06, 14.00),
    (20, "+ CRC"): Accuracies(51.84, 38.54, 27.32, 18.53),
    (25, "Baseline"): Accuracies(45.77, 32.08, 21.36, 13.64),
    (25, "+ Fast"): Accuracies(45.28, 31.67, 20.69, 13.26),
    (25, "+ CRC"): Accuracies(51.59, 39.27, 27.94, 19.06),
    (30, "Baseline"): Accuracies(46.39, 33.08, 22.02, 13.77),
    (30, "+ Fast"): Accuracies(45.86, 32.54, 21.18, 12.77),
    (30, "+ CRC"): Accuracies(50.97, 38.77, 27.73, 19.28),
    (35, "Baseline"): Accuracies(43.42, 30.36, 19.71, 12.66),
    (35, "+ Fast"): Accuracies(42.78, 29.88, 19.73, 12.52),
    (35, "+ CRC"): Accuracies(51.42, 39.01, 28.94, 20.29),
    (40, "Baseline"): Accuracies(41.72, 28.53, 18.37, 11.49),
    (40, "+ Fast"): Accuracies(42.07, 28.51, 18.86, 11.89),
    (40, "+ CRC"): Accuracies(50.11, 38.69, 28.45, 20.05),
}

# Tables 3 and 4, columns 'Increase': standard and at 36/255, points over the baseline, as printed.
INCREASES_3 = {
    (15, "+ Fast"): (-0.03, -0.23),
    (15, "+ CRC"): (1.66, 4.24),
    (20, "+ Fast"): (-0.37, -1.26),
    (20, "+ CRC"): (1.63, 3.14),
    (25, "+ Fast"): (-0.24, -0.55),
    (25, "+ CRC"): (2.01, 3.82),
    (30, "+ Fast"): (0.26, -0.81),
    (30, "+ CRC"): (4.21, 6.40),
    (35, "+ Fast"): (0.18, 0.40),
    (35, "+ CRC"): (5.84, 8.76),
    (40, "+ Fast"): (0.27, 0.41),
    (40, "+ CRC"): (7.08, 9.77),
}
INCREASES_4 = {
    (15, "+ Fast"): (-0.09, -0.68),
    (15, "+ CRC"): (2.73, 2.98),
    (20, "+ Fast"): (-0.96, -0.92),
    (20, "+ CRC"): (4.47, 4.55),
    (25, "+ Fast"): (-0.49, -0.41),
    (25, "+ CRC"): (5.82, 7.19),
    (30, "+ Fast"): (-0.53, -0.54),
    (30, "+ CRC"): (4.58, 5.69),
    (35, "+ Fast"): (-0.64, -0.48),
    (35, "+ CRC"): (8.00, 8.65),
    (40, "+ Fast"): (0.35, -0.02),
    (40, "+ CRC"): (8.39, 10.16),
}

# The authors' program, run by us at the small scale: LipConvnet-5, 8 channels, 4 epochs, CIFAR-10 (JPEG mirror), one
# seed, certified by the authors' own certificate; the curvature head has 512 hidden units.
AUTHORS_PROGRAM_SMALL = {
    (5, "Baseline"): Accuracies(46.18, 29.28, 15.61, 6.58),
    (5, "+ Fast"): Accuracies(45.99, 29.70, 16.56, 7.64),
    (5, "+ CRC"): Accuracies(51.79, 40.53, 32.22, 24.50),
}


def times(table: str, depth: int) -> Times | None:
    """What the paper has for a row of Tables 1 and 8, None where its body says nothing."""
    return TABLE_1.get(depth) if table == "1" else None


def accuracies(table: str, depth: int, method: str) -> Accuracies | None:
    """What the paper has for a row of Tables 3 to 6, None where its body says nothing.

    Tables 5 and 6 add the parts of '+ CRC' one by one: their '+ both' is '+ CRC', and '+ Fast' is the same row.
    """
    method = "+ CRC" if method == "+ both" else method
    return {"3": TABLE_3, "5": TABLE_3, "4": TABLE_4, "6": TABLE_4}[table].get((depth, method))


def authors_program(table: str, scale: str, depth: int, method: str) -> Accuracies | None:
    """The same of the authors' program at our scale."""
    method = "+ CRC" if method == "+ both" else method
    return AUTHORS_PROGRAM_SMALL.get((depth, method)) if table in ("3", "5") and scale == "small" else None
