"""Takes the pictures of the dashboard in docs/.

    make bench
    metagrad run products
    python -m tools.screenshots results                      # or some of them:
    python -m tools.screenshots results bias-products.png

Needs Chromium, and a machine with nothing else to do: the first picture shows times.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from tests.support.chromium import CHARTS, chromium, dashboard_of

DOCS = Path(__file__).parent.parent / "docs"
_MARGIN = 12  # pixels around a figure


@dataclass(frozen=True)
class Picture:
    """A page of the dashboard, or one figure of it, twice as large."""

    name: str
    address: str
    figures: int  # on the page
    height: int  # of the page, in pixels
    figure: int | None = None  # its place on the page


PICTURES = (
    Picture("overview.png", "/?memory=80+KiB&task=sinusoid&model=mlp-40-40&depth=5", 2, 1150),
    Picture(
        "trade-offs.png",
        "/trade-offs?x=peak+memory+(MiB)&task=sinusoid&model=mlp-40-40&depth=5",
        1,
        1000,
    ),
    Picture(
        "bias-products.png",
        "/bias?task=sinusoid&model=mlp-40-40(init%3D'torch')&depth=20",
        9,
        5000,
        figure=7,
    ),
)


def main(store: Path, *names: str) -> None:
    """Take the pictures of a store that are named, or all."""
    with dashboard_of(store) as address, chromium() as browser:
        for picture in PICTURES:
            if names and picture.name not in names:
                continue
            page = browser.new_page(
                viewport={"width": 1400, "height": picture.height},
                device_scale_factor=1 if picture.figure is None else 2,
            )
            page.goto(address + picture.address)
            drawn = f"document.querySelectorAll('{CHARTS}').length >= {picture.figures}"
            page.wait_for_function(drawn)
            page.wait_for_timeout(2000)  # until widgets and figures are where they stay
            path = DOCS / picture.name
            if picture.figure is None:
                page.screenshot(path=path)
                continue
            box = page.locator(CHARTS).nth(picture.figure).bounding_box()
            assert box
            x, y = box["x"] - _MARGIN, box["y"] - _MARGIN
            width, height = box["width"] + 2 * _MARGIN, box["height"] + 2 * _MARGIN
            page.screenshot(path=path, clip={"x": x, "y": y, "width": width, "height": height})


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
