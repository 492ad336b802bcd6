"""The table of defects, 1 − min |p(it)| / max |p(it)| over 0 <= t <= norm, of equiripple and Taylor polynomials.

    python benchmarks/defects.py

Prints the markdown of docs/orthogonal.md; exact up to 1e-15 (`Polynomial.gain`).
"""

from lipjax import ops
from lipjax.ops.equiripple import DEGREES

NORMS = (0.5, 1.0, 1.4, 1.5, 1.9, 2.0, 2.4, 3.0)
TAYLOR_TERMS = (4, 5, 6, 15)


def table() -> str:
    rows = [
        (f"equiripple {degree}", [ops.equiripple(degree, norm) for norm in NORMS])
        for degree in range(DEGREES[0], DEGREES[1] + 1)
    ]
    rows += [(f"Taylor {terms} terms, degree {terms - 1}", [ops.taylor(terms)] * len(NORMS)) for terms in TAYLOR_TERMS]
    lines = ["| norm | " + " | ".join(map(str, NORMS)) + " |", "|---" * (len(NORMS) + 1) + "|"]
    for name, polynomials in rows:
        defects = [defect(polynomial, norm) for polynomial, norm in zip(polynomials, NORMS, strict=True)]
        lines.append(f"| {name} | " + " | ".join(f"{d:.1e}" if d > 1e-14 else "< 1e-14" for d in defects) + " |")
    return "\n".join(lines)


def defect(polynomial: ops.Polynomial, norm: float) -> float:
    lowest, highest = polynomial.gain(norm)
    return 1 - lowest / highest


if __name__ == "__main__":
    print(table())
