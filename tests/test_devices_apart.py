"""Numbers of several devices in one store: nowhere mixed, and what is absent says why."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from harness.store.summary import print_summary
from harness.store.table import load_sound
from reports import static
from reports.figures.cost import phases, time_against_depth, work_and_serial_depth
from reports.tables.cells import cells, sections
from reports.tables.text import readable
from tests.support import gpu_store
from tests.support.app_pages import FIGURES, PAGES, figures, opened
from tests.support.figure_rows import heading
from tests.support.gpu_store import ABSENT, ESTIMATORS, MILLISECONDS, MODELS, UTILISATION


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpu_store.write_gpu_store(tmp_path_factory.mktemp("gpus"))


def test_each_device_has_its_cells(store: Path) -> None:
    table = cells(load_sound(store))
    for device, milliseconds in MILLISECONDS.items():
        for place, estimator in enumerate(ESTIMATORS, 1):
            one = (table["model"] == "mlp-40-40") & (table["depth"] == 5)
            one &= (table["device"] == device) & (table["estimator"] == estimator)
            (row,) = table[one].to_dict("records")
            assert row["time"] == pytest.approx(milliseconds * place)
            utilisation = UTILISATION.get(device, float("nan"))
            assert row["utilisation"] == pytest.approx(utilisation, nan_ok=True)
    absent = table[table["device"] == "cuda:2"]
    assert set(absent["reason"]) == {ABSENT}
    assert absent["time"].isna().all()
    assert "GPU utilisation (%)" in readable(table)


def test_no_section_has_two_devices(store: Path) -> None:
    parts = sections(cells(load_sound(store)))
    found = [(part["model"].iloc[0], *part["device"].unique()) for part in parts]
    assert sorted(found) == sorted((m, d) for m in MODELS for d in MILLISECONDS)


def test_a_run_ends_with_a_table_for_each(store: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    print_summary(load_sound(store), console)
    printed: str = console.file.getvalue()  # type: ignore[attr-defined]
    for device in MILLISECONDS:
        assert len(re.findall(rf"K=\d, alpha=\S+, {device}, ", printed)) == 2 * len(MODELS)
    assert f"20 × skipped: {ABSENT}" in printed


def test_figures_name_their_device(store: Path) -> None:
    table = cells(load_sound(store))
    table = table[(table["model"] == "mlp-40-40") & (table["outcome"] == "ok")]
    for device in MILLISECONDS:
        rows = table[table["device"] == device]
        assert device in heading(time_against_depth(rows))[1]
        for make in (work_and_serial_depth, phases):
            assert device in heading(make(rows[rows["depth"] == 5]))[1], make


@pytest.mark.parametrize(
    "device", ["cuda:2", *(pytest.param(name, marks=pytest.mark.slow) for name in MILLISECONDS)]
)
def test_pages_show_the_device_that_is_chosen(
    store: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METAGRAD_STORE", str(store))
    for page in PAGES:
        at = opened(page, device=device)
        assert at.selectbox(key="device").options == [*MILLISECONDS, "cuda:2"]
        assert at.selectbox(key="device").value == device
        if page == "Cost" and device in MILLISECONDS:
            assert figures(at) == FIGURES["Cost"] + 2  # two models
        if page == "Overview":
            text = " ".join(str(one.value.to_dict()) for one in at.table).replace("\\", "")
            assert ABSENT in text


def test_the_report_has_a_section_for_each(store: Path) -> None:
    page = static.render(store).page
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", page, flags=re.DOTALL)
    for device in MILLISECONDS:
        assert sum(device in heading for heading in headings) == len(MODELS), headings
    assert not any("cuda:2" in heading for heading in headings)  # which was absent
    assert ABSENT in page
