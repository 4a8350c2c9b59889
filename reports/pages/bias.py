"""How wrong estimates are: against order, depth and training, and task by task."""

from functools import partial

from reports import figures
from reports.pages import widgets
from reports.tables.samples import samples
from reports.tables.view import View


def show(view: View) -> None:
    """Shows the page."""
    widgets.figures(
        partial(figures.bias_against_order, view.here),
        partial(figures.bias_against_depth, view.setting),
        partial(figures.bias_by_task, samples(view.snapshot.long, view.here, "bias")),
        partial(figures.cosine, view.here),
        partial(figures.bias_along_training, view.training),
    )
    widgets.explained("bias", "bound", "cosine_distance", "curvature")
