"""Figures as files."""

import vl_convert

from reports.figures.style import Chart

_WIDTH = 640  # pixels; on a page it is as wide as there is room


def svg(chart: Chart) -> bytes:
    """Returns a figure as SVG, made without a browser or a network.

    Args:
        chart: as wide as its page.
    """
    spec = chart.to_dict(validate=False)
    if spec.get("width") == "container":
        spec["width"] = _WIDTH
    return vl_convert.vegalite_to_svg(spec).encode()
