"""Numbers as text for people: three digits, and a suitable prefix."""

import math
import re


def bytes_text(size: float) -> str:
    """Return a number of bytes with its unit.

    Example:
        >>> bytes_text(2048)
        '2 KiB'
    """
    return _scaled(size, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def bytes_of(text: str) -> float:
    """Parse an amount of memory; without a unit it is in MiB.

    Raises:
        ValueError: it is not one, or is below 0.

    Example:
        >>> bytes_of("80 KiB")
        81920.0
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(?:([kmgt]?)i?b?)?\s*", text.lower())
    if not match:
        raise ValueError(
            f"{text!r} is not an amount of memory; write it like 80 KiB, 35 MiB or 1.5 GiB"
        )
    number, prefix = match.groups()
    return float(number) * 1024.0 ** ("kmgt".index(prefix or "m") + 1)


def seconds_of(text: str) -> float:
    """Parse a duration, as 90s, 9m or 1h, in seconds.

    Raises:
        ValueError: it is not one, or is no time at all.

    Example:
        >>> seconds_of("1.5h")
        5400.0
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(s|m|min|h)\s*", text.lower())
    seconds = float(match[1]) * {"s": 1, "m": 60, "min": 60, "h": 3600}[match[2]] if match else 0.0
    if not seconds:
        raise ValueError(f"{text!r} is not a duration; write it like 90s, 9m or 1h")
    return seconds


def count_text(count: float) -> str:
    """Return a count with three digits; with all digits below a thousand.

    Example:
        >>> count_text(1_592_000)
        '1.59 M'
    """
    return _scaled(count, 1000, ("", "k", "M", "G", "T", "P")).strip()


def seconds_text(seconds: float) -> str:
    """Return seconds with their unit.

    Example:
        >>> seconds_text(0.0021)
        '2.1 ms'
    """
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def number_text(value: float, unit: str = "") -> str:
    """Return a number with its unit; "" for NaN.

    Example:
        >>> number_text(2048, "B"), number_text(0.0021, "s"), number_text(12345), number_text(0.1)
        ('2 KiB', '2.1 ms', '12,345', '0.1')
    """
    if not math.isfinite(value):
        return "" if math.isnan(value) else f"{value:g}"
    if unit == "B":
        return bytes_text(value)
    if unit in ("s", "seconds"):  # the latter of asv's own benchmarks
        return seconds_text(value)
    if unit == "FLOP":
        return count_text(value)
    whole = float(value).is_integer() or abs(value) >= 1000
    return f"{value:,.0f}" if whole and abs(value) < 1e9 else f"{value:.4g}"


def _scaled(number: float, base: int, units: tuple[str, ...]) -> str:
    if not math.isfinite(number):
        return "-"
    power = 0
    while abs(number) >= 999.5 and power < len(units) - 1:
        number, power = number / base, power + 1
    return f"{number:.3g} {units[power]}"


def counted(count: int, noun: str) -> str:
    """Return a number of things in words, as "1 cell" or "2 cells"."""
    return f"{count} {noun}" + "s" * (count != 1)
