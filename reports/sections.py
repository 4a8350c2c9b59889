"""The list of sections that the pages of the dashboard and the static report both show.

To add a figure, write its function in `reports.figures`, and add an entry to `SECTIONS`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import pandas as pd

from reports.figures import accuracy, bias, cost, draws, history, parallel, tradeoffs
from reports.figures.style import Chart
from reports.tables import break_even, text
from reports.tables.accuracy import (
    JUDGED,
    curves,
    differences,
    differences_table,
    setting_text,
    settings,
    test_results,
)
from reports.tables.advice import by_memory, verdict
from reports.tables.cells import has_two_truths, is_random
from reports.tables.details import environments
from reports.tables.over_commits import changes_table, setting_of
from reports.tables.overview import failures, outcomes, versions
from reports.tables.view import View

if TYPE_CHECKING:
    from harness.profiling.folder import Profile

_OVER_COMMITS = ("bias", "time_ratio", "peak_memory")


@dataclass(frozen=True)
class Heading:
    """The title of the blocks that follow; folded ones are shown when a reader opens them."""

    text: str
    folded: bool = False


@dataclass(frozen=True)
class Answer:
    """The sentence that a reader looks for first."""

    text: str
    is_yes: bool


@dataclass(frozen=True)
class Command:
    """A command line that makes what is shown."""

    text: str


Block = (
    Callable[[], Chart]  # a figure, drawn when it is shown
    | pd.DataFrame  # a table
    | str  # a paragraph
    | list[str]  # bullets
    | dict[str, str]  # facts by name
    | Heading
    | Answer
    | Command
)


@dataclass(frozen=True)
class Section:
    """One entry of the list."""

    page: str  # of the dashboard
    scope: Literal["depth", "setting", "task", "store"]  # the report repeats it for each of them
    blocks: Callable[[View], Iterable[Block]]  # nothing if there is no content
    title: str = ""  # without one it continues the section before
    metrics: Sequence[str] = ()  # those that the page explains
    empty: str = ""  # shown by the page if there is no content: the command that makes some


def parts_of(blocks: Iterable[Block]) -> Iterator[tuple[Heading | None, list[Block]]]:
    """Yield each heading with the blocks below it; first the blocks above all headings, if any."""
    heading: Heading | None = None
    part: list[Block] = []
    for block in blocks:
        if isinstance(block, Heading):
            if part or heading:
                yield heading, part
            heading, part = block, []
        else:
            part.append(block)
    if part or heading:
        yield heading, part


def joined(sections: Iterable[Section], view: View) -> Iterator[tuple[Section, list[Block]]]:
    """Yield sections with their blocks; one without a title continues the one before."""
    first: Section | None = None
    blocks: list[Block] = []
    for section in sections:
        if section.scope != "store" and view.here.empty:
            continue
        if first and section.title:
            yield first, blocks
            first, blocks = None, []
        first = first or section
        blocks += section.blocks(view)
    if first:
        yield first, blocks


def _figure(page: str, draw: Callable[[pd.DataFrame], Chart], rows: str, *metrics: str) -> Section:
    """Return an entry that is one figure of some rows of a view."""
    scope: Literal["depth", "setting"] = "setting" if rows == "setting" else "depth"
    return Section(page, scope, lambda view: [partial(draw, getattr(view, rows))], metrics=metrics)


def _recommendation(view: View) -> Iterator[Block]:
    yield Answer(verdict(view.advice), bool(view.advice["fits"].any()))
    yield text.ranking(view.advice)
    yield from text.notes(view.here)


def _by_memory(view: View) -> Iterator[Block]:
    table = by_memory(view.here, view.errors)
    if not table.empty:
        yield table


def _spread(view: View) -> Iterator[Block]:
    if is_random(view.here).any():
        yield partial(draws.bias_against_spread, view.here)


def _two_truths(view: View) -> Iterator[Block]:
    """Yield a figure for each truth, where inner steps may be drawn: never both in one."""
    if has_two_truths(view.here):
        first = "Bias to exact inner steps (T1)"
        yield partial(bias.by_estimator, view.here, "bias", first)
        second = "Bias to drawn inner steps (T2)"
        yield partial(bias.by_estimator, view.here, "bias_t2", second)
        drawn = view.here[is_random(view.here)]
        yield partial(bias.by_estimator, drawn, "spread", "Spread of one estimate")


def _findings(view: View) -> Iterator[Block]:
    if lines := view.snapshot.findings:
        yield lines


def _contents(view: View) -> Iterator[Block]:
    yield view.snapshot.contents
    yield Heading("Commits and machines", folded=True)
    yield versions(view.snapshot.cells)


def _outcomes(view: View) -> Iterator[Block]:
    yield ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes(view.version).items())
    failed = failures(view.version)
    if not failed.empty:
        yield failed


def _environments(view: View) -> Iterator[Block]:
    for environment in environments(view.snapshot, view.version):
        yield Heading(f"Measured on {environment['machine']}", folded=True)
        yield environment


def _along_training(view: View) -> Iterator[Block]:
    if not view.training.empty and view.training["trained"].nunique() > 1:
        yield partial(bias.bias_along_training, view.training)
        yield "Against all products of an estimate, at each state:"
        yield partial(tradeoffs.bias_against_products, view.training)
        yield "Against those that wait for one another, where others run side by side:"
        yield partial(tradeoffs.bias_against_serial_products, view.training)


def _over_models(view: View) -> Iterator[Block]:
    if not view.models.empty and view.models["model"].nunique() > 1:
        for metric in ("time", "peak_memory"):
            yield partial(cost.cost_against_model, view.models, metric)


def _break_even(view: View) -> Iterator[Block]:
    compared = break_even.over_exact(view.snapshot.long, view.curves, view.snapshot.cells)
    depths = break_even.break_evens(compared)
    if not depths.empty:
        yield break_even.ABOUT
        yield partial(parallel.time_over_exact, compared, depths)
        yield break_even.break_even_table(depths)


def _compiling(view: View) -> Iterator[Block]:
    table = break_even.compiling_pays(view.snapshot.long, view.curves)
    if not table.empty:
        yield break_even.ABOUT_COMPILING
        yield table


def _history(view: View) -> Iterator[Block]:
    numbers, setting = view.snapshot.history, setting_of(view.here)
    rows = numbers.of_setting(setting, view.families)
    if rows.empty or (not view.metric and rows["commit"].nunique() < 2):
        return
    changes = numbers.changes(setting, tuple(view.families))
    for metric in [view.metric] if view.metric else _OVER_COMMITS:
        of_metric = rows[rows["metric"].isin((metric, ""))]
        yield partial(history.over_commits, of_metric, changes[changes["metric"] == metric])
    if not changes.empty:
        yield "Commits at which a metric changed its level, newest first:"
        yield changes_table(changes)


def _trainings(view: View) -> Iterator[Block]:
    rows = view.snapshot.trainings[0] if view.trainings is None else view.trainings
    for setting in settings(rows):
        title, outer = setting_text(setting)
        yield Heading(title)
        yield outer
        for metric in [name for name in JUDGED if (setting["metric"] == name).any()]:
            compared = differences(setting, metric)
            yield partial(accuracy.learning_curves, curves(setting, metric, "validation"))
            yield partial(accuracy.learning_curves, curves(setting, metric, "train"))
            yield partial(accuracy.test_accuracy, test_results(setting, metric))
            yield partial(accuracy.paired_differences, compared)
            if not compared.empty:
                yield differences_table(compared, metric)


def _reproduction(view: View) -> Iterator[Block]:
    from harness.commands.reproduce import SCALES  # with torch, which few pages need
    from reports.reproduction import pieces
    from reports.reproduction.piece import Measurements

    measured = Measurements(view.snapshot)
    for scale in SCALES:
        found = pieces(measured, scale)
        # The first is of theory alone, and by itself no reproduction of anything measured.
        for piece in found if found[1:] else []:
            yield Heading(piece.heading)
            yield Command(f"metagrad reproduce {piece.name} --scale {scale}")
            yield [*piece.notes]
            yield from piece.charts
            yield piece.table
            if not piece.agreement.empty:
                yield "Compared:"
                yield piece.agreement


def _profiles(view: View) -> Iterator[Block]:
    from reports.figures import profiles  # with torch, which few pages need

    newest, faults = profiles.stored(view.snapshot.store)
    if newest or faults:
        yield (
            "One estimate of each cell under torch's profiler, which slows small operators most: "
            "compare shares."
        )
    if faults:
        yield [f"Not shown: {fault}" for fault in faults]
    for profile in newest:
        yield Heading(profile.summary["cell"], folded=True)
        yield profiles.about(profile)
        yield from profile.summary["notes"]
        yield from profile_blocks(profile)


def profile_blocks(profile: "Profile") -> Iterator[Block]:
    """Yield the figures and tables of a profile."""
    from reports.figures import profiles

    yield partial(profiles.memory_timeline, profile)
    yield partial(profiles.time_by_phase, profile)
    yield partial(profiles.flames, profile)
    yield "Operators, by time without what they call:"
    yield profiles.top_operators(profile)
    tensors = profiles.top_tensors(profile)
    if not tensors.empty:
        yield "Tensors alive at the peak:"
        yield tensors


# Figures without a title come first: after a titled section they would continue it.
SECTIONS = (
    Section("Overview", "depth", _recommendation),
    _figure("Overview", tradeoffs.bias_against_memory, "here", "bias", "peak_memory"),
    _figure("Overview", tradeoffs.bias_against_time, "here", "time_ratio"),
    _figure("Bias", bias.bias_against_order, "here", "bias", "bound"),
    _figure("Bias", bias.bias_against_depth, "setting"),
    _figure("Bias", tradeoffs.bias_against_products, "here", "hvps"),
    _figure("Bias", tradeoffs.bias_against_serial_products, "here", "serial_depth"),
    Section("Bias", "depth", _two_truths, metrics=["bias_t2"]),
    Section("Bias", "depth", _spread, metrics=["spread", "rmse", "bias_limit", "bias_chance"]),
    _figure("Bias", bias.bias_by_task, "biases"),
    _figure("Bias", bias.cosine, "here", "cosine_distance"),
    _figure("Cost", cost.work_against_depth, "setting", "time_ratio"),
    _figure("Cost", cost.memory_against_depth, "setting", "peak_memory"),
    _figure("Cost", cost.time_against_depth, "setting", "time"),
    _figure("Cost", cost.work_and_serial_depth, "here", "hvps"),
    _figure("Cost", parallel.time_against_serial_depth, "here", "serial_depth"),
    _figure("Cost", cost.phases, "here", "time_inner_loop"),
    Section("Overview", "depth", _by_memory, "First choice within a budget of memory"),
    Section("Overview", "store", _findings, "Findings at the newest commit"),
    Section("Overview", "store", _contents, "In the store"),
    Section("Overview", "store", _outcomes, "How the cells ended"),
    Section("Overview", "store", _environments),
    Section(
        "Bias",
        "setting",
        _along_training,
        "Along meta-training",
        metrics=["curvature"],
        empty="These cells do not differ in meta-training; `metagrad run quick --trained 800` "
        "measures after so many steps of it.",
    ),
    Section(
        "Cost",
        "task",
        _over_models,
        "Over model size",
        empty="Only one model was measured here; `metagrad run quick --model NAME` measures "
        "another one.",
    ),
    Section(
        "Cost",
        "task",
        _break_even,
        "Break-even with exact MAML",
        empty="No estimator was timed beside exact MAML here; `metagrad run quick` times both.",
    ),
    Section(
        "Cost",
        "task",
        _compiling,
        "When compiling pays",
        metrics=["compile_time"],
        empty="No estimator was timed here both compiled and not; `metagrad run batching-compiled` "
        "times both.",
    ),
    Section(
        "Accuracy",
        "store",
        _trainings,
        "Meta-training",
        metrics=JUDGED,
        empty="Nothing was meta-trained yet; `metagrad train` does it.",
    ),
    Section(
        "Reproduction",
        "store",
        _reproduction,
        "Figures and tables of papers",
        empty="Nothing yet; `metagrad reproduce all` makes them, in an hour on two cores.",
    ),
    Section(
        "History",
        "setting",
        _history,
        "Over commits",
        empty="Nothing here was measured at a commit without uncommitted changes; `make bench` "
        "measures the current one.",
    ),
    Section("Cell", "store", _profiles, "Profiles"),
    Section("Data", "depth", lambda view: [text.summary(view.here)], "Cells"),
)
