"""Dashboard and report in a real browser: figures are drawn, nothing leaves this machine."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from reports import static
from tests.stores import write_store

ROOT = Path(__file__).parent.parent
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
CHARTS = "[data-testid=stVegaLiteChart] :is(canvas, svg.marks)"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium in this machine")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def dashboard(store: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)],
        cwd=ROOT,
        env=os.environ | {"METAGRAD_STORE": str(store)},
        stdout=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/_stcore/health")
        yield address
    finally:
        server.terminate()
        server.wait(10)


def wait_for(address: str) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(address, timeout=1)
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Opens a page that must not complain, nor ask anything of another machine."""
    complaints: list[str] = []
    page = browser.new_page(viewport={"width": 1440, "height": 2200})
    page.on("console", lambda said: complaints.append(f"{said.type}: {said.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if far(request.url) else None)
    yield page
    page.close()
    assert complaints == []


def far(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme not in ("data", "blob", "file") and parts.hostname != "127.0.0.1"


def test_dashboard_draws_and_filters(page: Page, dashboard: str) -> None:
    page.goto(dashboard)
    page.get_by_role("heading", name="metagrad-bench").wait_for()
    expect(page.locator(CHARTS)).to_have_count(5, timeout=30_000)
    page.get_by_text("Cells at depth 5").wait_for()
    page.get_by_role("combobox", name="Depth K").click()
    page.get_by_role("option", name="2", exact=True).click()
    page.get_by_text("Cells at depth 2").wait_for()
    page.get_by_role("combobox", name="Task").click()
    page.get_by_role("option", name="sinusoid").click()
    page.get_by_text("mlp-40-40").first.wait_for()
    expect(page.locator(CHARTS)).to_have_count(5)


def test_dashboard_fits_a_phone(page: Page, dashboard: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(dashboard)
    page.locator(CHARTS).nth(4).wait_for(state="attached", timeout=30_000)
    widths = page.locator(CHARTS).evaluate_all("all => all.map(one => one.clientWidth)")
    assert all(200 < width <= 390 for width in widths)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_report_draws_from_a_file(page: Page, store: Path, tmp_path: Path) -> None:
    page.goto(static.write(store, tmp_path)[0].as_uri())
    drawn = page.locator(".chart svg.marks")
    # For each of two tasks: two figures over depth, three at the depth that is open.
    expect(drawn).to_have_count(10)
    page.get_by_text("Depth 2", exact=True).first.click()
    expect(drawn).to_have_count(13)
    drawn.first.locator("path[aria-roledescription=point]").last.hover()
    page.locator("#vg-tooltip-element.visible").wait_for()
    assert "estimator" in page.locator("#vg-tooltip-element").inner_text()
