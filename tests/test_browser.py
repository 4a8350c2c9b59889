"""Dashboard and report in a real browser: figures are drawn, nothing leaves this machine."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pandas as pd
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect

from reports import static
from tests.support.app_pages import FIGURES
from tests.support.chromium import CHARTS, CHROMIUM, chromium, dashboard_of
from tests.support.stores import write_store

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium in this machine")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def dashboard(store: Path) -> Iterator[str]:
    with dashboard_of(store) as address:
        yield address


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Opens a page that must not complain, nor ask anything of another machine."""
    complaints: list[str] = []
    page = browser.new_page(viewport={"width": 1440, "height": 2200})

    def hear(said: ConsoleMessage) -> None:
        # Opened at the address of one of its pages, Streamlit first looks for itself below that.
        if not re.search(r":\d+/[a-z-]+/_stcore/(health|host-config)$", said.location["url"]):
            complaints.append(f"{said.type}: {said.text}")

    page.on("console", hear)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if far(request.url) else None)
    yield page
    page.close()
    assert complaints == []


def far(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme not in ("data", "blob", "file") and parts.hostname != "127.0.0.1"


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_role("combobox", name=label).click()
    page.get_by_role("option", name=option, exact=True).click()


def heading(page: Page, name: str) -> None:
    page.get_by_role("heading", name=name, exact=True).wait_for(timeout=60_000)
    expect(page.get_by_test_id("stException")).to_have_count(0)


def idle(page: Page) -> None:
    page.locator("[data-test-script-state=notRunning]").wait_for()


@pytest.mark.slow
def test_every_page_draws_and_every_filter_filters(page: Page, dashboard: str) -> None:
    page.goto(dashboard)
    for name, charts in FIGURES.items():
        page.get_by_role("link", name=name, exact=True).click()
        heading(page, name)
        expect(page.locator(CHARTS)).to_have_count(charts, timeout=30_000)
        choose(page, "Task", "sinusoid")
        expect(page).to_have_url(re.compile(r"task=sinusoid"))
        choose(page, "Depth K", "2")
        expect(page).to_have_url(re.compile(r"depth=2"))
        choose(page, "Task", "quadratic")
        choose(page, "Depth K", "5")
        expect(page.locator(CHARTS)).to_have_count(charts, timeout=30_000)
    expect(page.get_by_test_id("stException")).to_have_count(0)


def test_budget_of_memory_names_an_estimator(page: Page, dashboard: str) -> None:
    page.goto(f"{dashboard}/?task=sinusoid")
    heading(page, "Which estimator should I use?")
    expect(page.locator(CHARTS)).to_have_count(FIGURES["Overview"], timeout=30_000)
    budget = page.get_by_label("Peak memory, at most")
    budget.fill("1 KiB")
    budget.press("Enter")
    page.get_by_text("Nothing fits within").wait_for()
    expect(page).to_have_url(re.compile(r"memory=1.KiB"))


@pytest.mark.slow
def test_address_shows_a_colleague_the_same(browser: Browser, page: Page, dashboard: str) -> None:
    page.goto(dashboard)
    page.get_by_role("link", name="Trade-offs").click()
    heading(page, "Trade-offs")
    choose(page, "Task", "sinusoid")
    choose(page, "Estimators", "binom")
    page.keyboard.press("Escape")
    choose(page, "x axis", "peak memory (MiB)")
    expect(page).to_have_url(re.compile(r"x=peak"))
    page.get_by_text("Bias against peak memory").wait_for()
    other = browser.new_context().new_page()
    other.goto(page.url)
    heading(other, "Trade-offs")
    other.get_by_text("Bias against peak memory").wait_for()
    assert other.url == page.url
    assert other.get_by_role("combobox", name="Task").input_value() == "sinusoid"
    other.context.close()
    name = "sinusoid/mlp-40-40/K5/alpha0.01/imaml(lam=7.0)/cpu/float32/seed0/tasks8"
    page.goto(f"{dashboard}/cell?{urlencode({'cell': name})}")
    heading(page, "Cell")
    page.get_by_text("<script>alert('reason')</script>").first.wait_for()  # as text


def saved(page: Page, button: str, path: Path) -> Path:
    """The file that a button saves."""
    with page.expect_download() as download:
        page.get_by_role("button", name=button, exact=True).click()
    download.value.save_as(path / button)
    return path / button


@pytest.mark.slow
def test_tables_and_figures_can_be_saved(page: Page, dashboard: str, tmp_path: Path) -> None:
    page.goto(f"{dashboard}/data?task=sinusoid")
    heading(page, "Data")
    search = page.get_by_role("textbox", name="Search")
    search.fill("fomaml sinusoid")
    search.press("Enter")
    page.get_by_text("1 cells", exact=True).wait_for()
    idle(page)
    for table in (
        pd.read_csv(saved(page, "CSV", tmp_path)),
        pd.read_parquet(saved(page, "Parquet", tmp_path)),
    ):
        assert set(table["estimator"]) == {"fomaml"}
        assert {"bias", "time", "peak_memory"} <= set(table["metric"])
    page.goto(f"{dashboard}/trade-offs")
    heading(page, "Trade-offs")
    page.locator(CHARTS).first.wait_for()
    idle(page)
    page.get_by_test_id("stVegaLiteChart").hover()  # or there is no button
    figure = saved(page, "SVG", tmp_path).read_bytes()
    assert figure.startswith(b"<svg")
    assert b"truncated" in figure
    page.get_by_test_id("stVegaLiteChart").hover()
    assert saved(page, "Download as PNG", tmp_path).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_pages_fit_a_phone(page: Page, dashboard: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for name, charts in FIGURES.items():
        page.goto(f"{dashboard}/{'' if name == 'Overview' else name.lower()}")
        heading(page, name)
        if charts:
            page.locator(CHARTS).nth(charts - 1).wait_for(state="attached", timeout=30_000)
            widths = page.locator(CHARTS).evaluate_all("all => all.map(one => one.clientWidth)")
            assert all(200 < width <= 390 for width in widths), name
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name


@pytest.mark.slow
def test_report_draws_from_a_file(page: Page, store: Path, tmp_path: Path) -> None:
    page.goto(static.write(store, tmp_path)[0][0].as_uri())
    drawn = page.locator(".chart svg.marks")
    # For each of two tasks: four figures over depth, ten at the open depth.
    expect(drawn).to_have_count(28)
    page.get_by_text("Depth 2", exact=True).first.click()
    expect(drawn).to_have_count(38)
    drawn.first.locator("path[aria-roledescription=point]").last.hover()
    page.locator("#vg-tooltip-element.visible").wait_for()
    assert "estimator" in page.locator("#vg-tooltip-element").inner_text()
