import math

from harness.units import bytes_text, count_text, seconds_text


def test_bytes() -> None:
    assert [bytes_text(size) for size in (0, 999, 1010, 1024, 5 * 2**20, 2**31, math.nan)] == [
        *("0 B", "999 B", "0.986 KiB", "1 KiB", "5 MiB", "2 GiB", "-")
    ]


def test_counts() -> None:
    assert [count_text(count) for count in (0, 20, 999, 1592000, 3e12, math.inf)] == [
        *("0", "20", "999", "1.59 M", "3 T", "-")
    ]


def test_seconds() -> None:
    assert [seconds_text(one) for one in (0.5, 2.0, 1e-6)] == ["500 ms", "2 s", "0.001 ms"]
