"""Numbers as people read and write them."""

import math
from typing import Any

import pytest

from harness.support.units import bytes_of, bytes_text, count_text, seconds_text


def test_numbers_are_written_with_units() -> None:
    cases: dict[Any, dict[float, str]] = {
        bytes_text: {
            **{0: "0 B", 999: "999 B", 1010: "0.986 KiB", 1024: "1 KiB"},
            **{5 * 2**20: "5 MiB", 2**31: "2 GiB", math.nan: "-"},
        },
        count_text: {0: "0", 20: "20", 999: "999", 1592000: "1.59 M", 3e12: "3 T", math.inf: "-"},
        seconds_text: {0.5: "500 ms", 2.0: "2 s", 1e-6: "0.001 ms"},
    }
    for write, texts in cases.items():
        assert {number: write(number) for number in texts} == texts


def test_amounts_of_memory_are_read() -> None:
    amounts = {"80 KiB": 80 * 2**10, "80k": 80 * 2**10, "35": 35 * 2**20, "1.5GB": 1.5 * 2**30}
    amounts |= {" .5 mib ": 2**19, "0": 0, "2 TiB": 2**41}
    assert {text: bytes_of(text) for text in amounts} == amounts
    for text in ("", "-1 MiB", "much", "1 2", "80 KB/s", "nan", "1e3 MiB"):
        with pytest.raises(ValueError, match="KiB"):
            bytes_of(text)
