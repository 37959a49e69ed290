"""Numbers as text, by the rule of numbers.js: tests/views/test_numbers.py asks both for the same cases."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Context, Decimal

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` significant digits, in powers of ten where zeros would have to be counted.

    Example:
        >>> number(0.125, 2), number(1234.5), number(-2.5e-7), number(float("nan"))
        ('0.13', '1230', '−2.50×10⁻⁷', '–')
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    shown = _rounded(value, digits)
    if not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{shown:.{digits - 1}e}".split("e")
        return f"{mantissa}×10{raised(int(exponent))}".replace("-", "−")
    return f"{shown.normalize():f}".replace("-", "−")


def _rounded(value: float, digits: int) -> Decimal:
    """To so many digits, halves away from 0, as JavaScript does it; Python's own format takes them to the even one."""
    return Context(prec=digits, rounding=ROUND_HALF_UP).create_decimal(Decimal(value))


def rounded(value: float, error: float) -> str:
    """A number with at most three digits, and with none that its error blurs: 3.28 ± 0.4 is 3.3."""
    if not (value and error and math.isfinite(value) and math.isfinite(error)):
        return number(value)
    blur = math.floor(math.log10(abs(value))) - math.floor(math.log10(error))
    return number(value, max(1, min(3, blur + 1)))


def measured(value: float, error: float) -> str:
    """A number for a title: with its error where that would be seen in three digits."""
    return rounded(value, error) + (f" ± {number(error, 1)}" if error > 0.005 * abs(value) else "")


def power_of_ten(log: float | None, digits: int = 3) -> str:
    """10 to a power as text, however large: "3.1" or "1.6·10⁶⁰", which also stands well behind a ×."""
    if log is None or math.isnan(log):
        return "–"
    if math.isinf(log):
        return "∞" if log > 0 else "0"
    if -3 <= log < 5:
        return number(10**log, digits)
    exponent = math.floor(log)
    mantissa = _rounded(10 ** (log - exponent), digits)
    if mantissa >= 10:
        mantissa, exponent = Decimal(1), exponent + 1
    return f"{mantissa:.{digits - 1}f}·10{raised(exponent)}"


def raised(exponent: int) -> str:
    """An exponent as small raised signs."""
    return str(exponent).translate(_RAISED)


def probability(p: float, doubt: float | None = None) -> str:
    """A probability in plain digits, never a false 0 or 1: near 1 it is said by what is missing."""
    doubt = 1 - p if doubt is None else doubt
    if math.isnan(p):
        return "–"
    if 0 < p < 0.001:
        return number(p, 2)
    return f"1 − {number(doubt, 2)}" if 0 < doubt < 0.0005 else fixed(p, 3)


def decade(exponent: int) -> str:
    """A power of ten as a tick has it: in plain digits as long as these are few."""
    return number(10.0**exponent) if -3 <= exponent <= 4 else f"10{raised(exponent)}"


def fixed(value: float | None, places: int = 2) -> str:
    """A number with so many places after the point."""
    if value is None or math.isnan(value):
        return "–"
    shown = Decimal(value).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)
    return f"{shown or abs(shown):f}".replace("-", "−")


def near_one(value: float | None) -> str:
    """A number that says what is missing where it is nearly 1."""
    return f"1 − {number(1 - value, 2)}" if value is not None and 0.9995 < value < 1 else number(value)


def percent(share: float | None, digits: int | None = None) -> str:
    """A share in words that never round to a false 0 or 100 %, nor need it: 1.5 stays 150 %."""
    if share is None or math.isnan(share):
        return "– %"
    if 0.9995 <= share < 1:
        return f"all but {number(100 * (1 - share), 2)} %"
    return f"{number(100 * share, digits or (2 if share < 0.095 else 3))} %"
