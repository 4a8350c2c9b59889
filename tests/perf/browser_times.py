"""How long readers wait in a browser: `python -m tests.perf.browser_times DIR` prints it.

DIR is a store, such as `python -m tests.support.large_store DIR` writes. A page is done at the last
change of its document before nothing changes any more. Under load it all takes longer.
"""

import sys
import time
from pathlib import Path
from statistics import median

from playwright.sync_api import Browser, Page

from tests.support.app_pages import FIGURES
from tests.support.chromium import CHARTS, chromium, dashboard_of

CHANGES = 8
SETTLED = 2500  # ms without any change after which none comes

WATCH = """() => {
    window.clicked = window.changed = 0;
    const seen = () => { window.changed = performance.now(); };
    const all = {subtree: true, childList: true, attributes: true, characterData: true};
    new MutationObserver(seen).observe(document.body, all);
    document.addEventListener("click", () => { window.clicked = performance.now(); }, true);
}"""


def main(store: Path) -> None:
    """Prints how long first views take, and changes of the model on every page, in seconds."""
    with dashboard_of(store) as address, chromium() as browser:
        first = [_first_view(browser, address) for _ in range(4)]
        print("first view", *(f"{one:.1f}" for one in first))
        for title in FIGURES:
            page = _opened(browser, f"{address}/{'' if title == 'Overview' else title.lower()}")
            page.wait_for_timeout(SETTLED)
            page.evaluate(WATCH)
            taken = [_change(page, turn) for turn in range(CHANGES)]
            print(f"{title}: {median(taken):.2f},", *(f"{one:.2f}" for one in taken), flush=True)
            page.close()


def _opened(browser: Browser, address: str) -> Page:
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.goto(address)
    page.locator("[data-testid=stSelectbox]").first.wait_for()
    page.locator("[data-test-script-state=notRunning]").wait_for()
    return page


def _first_view(browser: Browser, address: str) -> float:
    start = time.perf_counter()
    page = _opened(browser, address)
    page.locator(CHARTS).nth(FIGURES["Overview"] - 1).wait_for()
    taken = time.perf_counter() - start
    page.close()
    return taken


def _change(page: Page, turn: int) -> float:
    page.get_by_role("combobox", name="Model").click()
    option = page.get_by_role("option").nth((turn + 1) % 2)
    option.wait_for()
    page.wait_for_timeout(400)
    option.click()
    page.wait_for_timeout(SETTLED)
    return float(page.evaluate("window.changed - window.clicked")) / 1000


if __name__ == "__main__":
    main(Path(sys.argv[1]))
