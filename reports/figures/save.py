"""Figures as files."""

from typing import Any

import vl_convert

_WIDTH = 640  # pixels; on a page it is as wide as there is room


def svg(spec: dict[str, Any]) -> bytes:
    """Returns a figure as SVG, made without a browser or a network."""
    if spec.get("width") == "container":
        spec = spec | {"width": _WIDTH}
    return vl_convert.vegalite_to_svg(spec).encode()
