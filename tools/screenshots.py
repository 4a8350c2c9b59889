"""Takes the pictures of the dashboard in docs/.

    make bench
    python -m tools.screenshots results

Needs Chromium, and a machine with nothing else to do: the first picture shows times.
"""

import sys
from pathlib import Path

from tests.support.chromium import CHARTS, chromium, dashboard_of

DOCS = Path(__file__).parent.parent / "docs"
# Picture, address of the page, how many figures it has, height in pixels.
PICTURES = (
    ("overview.png", "/?memory=80+KiB&task=sinusoid&model=mlp-40-40&depth=5", 2, 1150),
    (
        "trade-offs.png",
        "/trade-offs?x=peak+memory+(MiB)&task=sinusoid&model=mlp-40-40&depth=5",
        1,
        1000,
    ),
)


def main(store: Path) -> None:
    """Take all pictures of a store."""
    with dashboard_of(store) as address, chromium() as browser:
        for name, path, figures, height in PICTURES:
            page = browser.new_page(viewport={"width": 1400, "height": height})
            page.goto(address + path)
            page.wait_for_function(f"document.querySelectorAll('{CHARTS}').length >= {figures}")
            page.wait_for_timeout(2000)  # until widgets and figures are where they stay
            page.screenshot(path=DOCS / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
