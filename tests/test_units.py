import math

import pytest

from harness.support.units import bytes_of, bytes_text, count_text, seconds_text


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


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("80 KiB", 80 * 2**10), ("80k", 80 * 2**10), ("35", 35 * 2**20), ("1.5GB", 1.5 * 2**30)),
        *((" .5 mib ", 2**19), ("0", 0), ("2 TiB", 2**41)),
    ],
)
def test_amounts_of_memory_are_read(text: str, size: float) -> None:
    assert bytes_of(text) == pytest.approx(size)


@pytest.mark.parametrize("text", ["", "-1 MiB", "much", "1 2", "80 KB/s", "nan", "1e3 MiB"])
def test_what_is_no_amount_of_memory_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="write it like 80 KiB"):
        bytes_of(text)
