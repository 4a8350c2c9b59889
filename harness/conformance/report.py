"""The report that `metagrad check` prints."""

import math
from collections.abc import Sequence
from itertools import zip_longest

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.conformance.suite import Finding, Score, Verdict

_EXACT = 1e-9  # relative errors below this are rounding, in float64

_MARKS = {
    Verdict.PASSED: ("✓", "green"),
    Verdict.FAILED: ("✗", "bold red"),
    Verdict.NOT_APPLICABLE: ("–", "dim"),
}


def print_report(
    spec: str, findings: Sequence[Finding], scores: Sequence[Score], console: Console
) -> None:
    """Print the table of checks, that of scores, and a closing line."""
    console.print()
    console.print(_checks(findings))
    console.print()
    depths = sorted({score.depth for score in scores if score.error is not None})
    if depths:
        title = f"Relative error against the exact meta-gradient, K={', '.join(map(str, depths))}"
        console.print(title, style="bold")
        console.print(_scores(scores))
        console.print(_legend(scores), style="dim")
        console.print()
    for line in _unscored(scores):
        console.print(line, soft_wrap=True)
    console.print(_closing(spec, findings, scores), soft_wrap=True)


def _checks(findings: Sequence[Finding]) -> Table:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for finding, following in zip_longest(findings, findings[1:]):
        mark, style = _MARKS[finding.verdict]
        text = Text(finding.about, style="" if finding.verdict is Verdict.PASSED else style)
        repeated = following is not None and finding.reason == following.reason
        if finding.reason and not repeated:  # repeated reasons are printed once, after the last
            text.append(f"\n{finding.reason}", style="not bold")
        table.add_row(Text(mark, style=style), text)
    return table


def _scores(scores: Sequence[Score]) -> Table:
    own = _have_own(scores)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
    names = ["case", "float64", "float32", "1 - cos", "HVPs", "serial"]
    for name in [*names, "own"] if own else names:
        table.add_column(name, justify="left" if name == "case" else "right", no_wrap=True)
    for score in scores:
        if score.error is None or score.cosine_distance is None:
            continue
        cells = [_short(score.error), _short(score.single_error), _short(score.cosine_distance)]
        cells += [f"{score.hvps:g}", f"{score.serial_depth:g}"]
        if own:
            cells.append(_short(score.own_error))
        table.add_row(score.case, *cells)
    return table


def _legend(scores: Sequence[Score]) -> str:
    text = "1 - cos: of the angle between the two; serial: HVPs that must wait for one another"
    if _have_own(scores):
        text += "; own: float64, against the exact gradient of its own objective"
    draws = max(score.draws for score in scores)
    if draws > 1:
        text += f"; errors: root of the mean square over {draws} draws, all else their mean"
    return f"{text}."


def _have_own(scores: Sequence[Score]) -> bool:
    return any(score.own_error is not None for score in scores)


def _short(number: float | None) -> str:
    return "-" if number is None else f"{number:.2g}"


def _unscored(scores: Sequence[Score]) -> list[Text]:
    """Return where there is no estimate, a line for each reason."""
    where: dict[str, list[str]] = {}
    for score in scores:
        if score.error is None:
            where.setdefault(score.reason, []).append(score.case)
    return [
        Text(f"No score on {', '.join(cases)}: {reason}", style="dim")
        for reason, cases in where.items()
    ]


def _closing(spec: str, findings: Sequence[Finding], scores: Sequence[Score]) -> Text:
    counts = {verdict: sum(f.verdict is verdict for f in findings) for verdict in Verdict}
    failed = counts[Verdict.FAILED]
    verdict = "does not conform" if failed else "conforms"
    text = Text(f"{spec} {verdict}", style="bold red" if failed else "bold green")
    numbers = [f"{counts[each]} {each}" for each in Verdict if counts[each]]
    sentences = filter(None, (", ".join(numbers) + ".", _verdict_on_bias(scores)))
    text.append(": " + " ".join(sentences), style="not bold default")
    return text


def _verdict_on_bias(scores: Sequence[Score]) -> str:
    errors = [score.error for score in scores if score.error is not None]
    if not errors:
        return ""
    if not all(map(math.isfinite, errors)):
        return "Not all of its estimates are finite."
    worst = max(errors)
    if worst < _EXACT:
        return f"Exact: relative error at most {worst:.1g}."
    where = next(score.case for score in scores if score.error == worst)
    if any(score.draws > 1 for score in scores):
        return f"Random: relative error of one estimate up to {worst:.2g} ({where})."
    text = f"Biased: relative error up to {worst:.2g} ({where})"
    own = [score.own_error for score in scores if score.own_error is not None]
    if own and max(own) < _EXACT:
        return f"{text}; exact for its own objective."
    return f"{text}."
