"""Bounds as text: rounded to the safe side, so that the number one reads is proven, too."""

import decimal


def upper(value: float, form: str) -> str:
    """`format(value, form)` of a bound from above, form such as '.5f', '.1e' or '.6g': never less than the value."""
    return _rounded(value, form, decimal.ROUND_CEILING)


def lower(value: float, form: str) -> str:
    """`format(value, form)` of a bound from below: never more than the value."""
    return _rounded(value, form, decimal.ROUND_FLOOR)


def _rounded(value: float, form: str, rounding: str) -> str:
    exact = decimal.Decimal(float(value))
    if not exact.is_finite():
        return format(float(value), form)
    digits, kind = int(form[1:-1]), form[-1]
    after = digits if kind == "f" else digits - (kind == "g") - exact.adjusted()  # of the decimal point
    # Of so many digits the double nearest to a decimal prints as that decimal.
    context = decimal.Context(prec=800, rounding=rounding)
    return format(float(exact.quantize(decimal.Decimal(1).scaleb(-after), context=context)), form)
