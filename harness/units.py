"""Numbers as people read them: three digits, and the prefix that makes them short."""

import math


def bytes_text(size: float) -> str:
    """Returns bytes as people read them.

    Example:
        >>> bytes_text(2048)
        '2 KiB'
    """
    return _scaled(size, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def count_text(count: float) -> str:
    """Returns a count as people read it; all digits below a thousand.

    Example:
        >>> count_text(1_592_000)
        '1.59 M'
    """
    return _scaled(count, 1000, ("", "k", "M", "G", "T", "P")).strip()


def seconds_text(seconds: float) -> str:
    """Returns seconds as people read them.

    Example:
        >>> seconds_text(0.0021)
        '2.1 ms'
    """
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _scaled(number: float, base: int, units: tuple[str, ...]) -> str:
    if not math.isfinite(number):
        return "-"
    power = 0
    while abs(number) >= 999.5 and power < len(units) - 1:
        number, power = number / base, power + 1
    return f"{number:.3g} {units[power]}"
