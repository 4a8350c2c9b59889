"""asv's results of several stores in one: which file takes another's place."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from harness.asv.results import load_asv
from harness.commands.merge import merge as command
from harness.merging.merge import merge
from tests.support.asv_files import HEADLINE, MATRIX, write_asv
from tests.support.histories import A, B
from tests.support.invocation import invoke
from tests.support.kernel_files import write
from tests.support.merge_stores import TWO, asv, contents, problems, told

LATER, EARLIER = (datetime(2026, 1, day, tzinfo=UTC) for day in (2, 1))


HVPS, FLOPS = MATRIX + "hvps", MATRIX + "flops"


ONE_FAILED = [1.0, None, 1.0, 1.0]


@pytest.mark.parametrize(
    ("values", "started", "there", "came", "exit_code"),
    [
        ({HVPS: [2.0] * 4}, LATER, True, True, 0),  # newer, and as much
        ({HVPS: TWO, FLOPS: TWO}, EARLIER, True, True, 0),  # more of the same
        ({HVPS: TWO, FLOPS: TWO}, LATER, True, True, 0),
        ({HVPS: [math.nan] * 4}, LATER, True, True, 0),  # skipped is an answer
        ({HVPS: TWO}, EARLIER, True, False, 0),  # the same
        ({HVPS: ONE_FAILED}, EARLIER, True, False, 0),  # less of the same
        ({HVPS: ONE_FAILED}, LATER, True, False, 2),  # newer, and less
        ({FLOPS: TWO}, LATER, True, False, 2),  # newer, and other
        ({HVPS: [2.0] * 4}, EARLIER, True, False, 2),  # of the same time, and other
        ({HVPS: ONE_FAILED, FLOPS: TWO}, EARLIER, True, False, 2),  # either has more
        ({FLOPS: TWO}, LATER, False, True, 0),
    ],
)
def test_asv_is_replaced_by_what_covers_it(
    tmp_path: Path, values: Any, started: datetime, there: bool, came: bool, exit_code: int
) -> None:
    source, store = tmp_path / "from", tmp_path / "store"
    new = asv(source, values, started)
    target = store / new.relative_to(source)
    if there:
        asv(store, {HVPS: TWO}, EARLIER)
    before = target.read_bytes() if there else b""
    if exit_code:
        code, out, err = invoke(command, source, "--store", store)
        assert err == (
            f"metagrad: {new}: neither it nor {target} has all that the other tells; "
            "it is left out\n"
        )
        assert out.endswith(": 0 came, 0 there already, 1 left out.\n")
    else:
        code = merge([source], store).exit_code
    assert code == exit_code
    assert target.read_bytes() == (new.read_bytes() if came else before)


def test_skipped_results_of_asv_are_there_when_they_are(tmp_path: Path) -> None:
    source, store = tmp_path / "from", tmp_path / "store"
    for folder in (source, store):
        asv(folder, {HVPS: [math.nan] * 4}, EARLIER)
    merged = merge([source], store)
    assert (merged.came.total(), merged.there, merged.left_out) == (0, 1, [])


def test_asv_of_another_machine_of_the_same_name_stays_out(tmp_path: Path) -> None:
    source, store = tmp_path / "from", tmp_path / "store"
    asv(source, {HVPS: TWO}, EARLIER)
    write_asv(store / "asv", B, {HVPS: TWO})
    about = {"machine": "here", "version": 1, "arch": "x86_64", "num_cpu": "2"}
    for folder, cpu in ((source, "one"), (store, "other")):
        write(folder / "asv" / "here" / "machine.json", about | {"cpu": cpu, "ram": cpu})
    before = contents(store)
    merged = merge([source], store)
    assert merged.exit_code == 2
    assert "asv knows machines by name" in told(merged)[0]
    assert contents(store) == before
    # A few bytes of memory more or less, or another kernel, are no other machine.
    write(source / "asv" / "here" / "machine.json", about | {"cpu": "other", "os": "newer"})
    assert merge([source], store).came["asv", "here"] == 1
    assert contents(store).items() > before.items()


def test_asv_learns_of_benchmarks_that_it_has_not_heard_of(tmp_path: Path) -> None:
    source, store = tmp_path / "from", tmp_path / "store"
    write_asv(source / "asv", A, {HEADLINE: [1.0, 2.0]})
    write_asv(store / "asv", B, {HVPS: TWO}, machine="there")
    merge([source], store)
    suite = json.loads((store / "asv" / "benchmarks.json").read_text())
    assert {HEADLINE, HVPS, "version"} <= set(suite)
    table, _ = load_asv(store / "asv")
    assert set(table.loc[table["metric"] == HEADLINE, "unit"]) == {"seconds"}
    assert not problems(store)
