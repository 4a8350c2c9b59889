"""Reads the journal of one run back: what it was made with, and each cell as a whole."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from harness.matrix.metrics import Samples
from harness.matrix.outcome import Status
from harness.store.journal import SCHEMA, Progress

STAGES = ("plan", "score", "time")
_NUMBERS = {float, int}


@dataclass(frozen=True)
class StageResult:
    """How one stage of a cell ended.

    Attributes:
        status: the kind of end.
        reason: one line, empty when all went well.
        traceback: where it went wrong, if that is known.
        samples: by metric.
        notes: what a reader of the samples should know.
        seconds: wall time of the piece of work, which several cells may have shared.
        limits: "seconds" and bytes of "memory" that it had.
        machine: that did it, by its name in the journal; "" if it is the run's own.
        transient: see `Outcome`.
    """

    status: Status
    reason: str
    traceback: str
    samples: Samples
    notes: list[str]
    seconds: float
    limits: dict[str, float]
    machine: str = ""
    transient: bool = False


def _rank(stage: str) -> int:
    return STAGES.index(stage) if stage in STAGES else len(STAGES)


@dataclass
class CellResult:
    """Everything that a run found out about one cell.

    Attributes:
        id: the cell's name.
        axes: its parts, by name.
        stages: what is known, by stage; the newest where a stage was repeated.
    """

    id: str
    axes: dict[str, Any]
    stages: dict[str, StageResult] = field(default_factory=dict)

    @property
    def end(self) -> StageResult:
        """The first stage that did not end well, else the last one."""
        known = [self.stages[stage] for stage in sorted(self.stages, key=_rank)]
        return next((stage for stage in known if stage.status is not Status.OK), known[-1])

    @property
    def status(self) -> Status:
        """How the cell ended."""
        return self.end.status

    @property
    def reason(self) -> str:
        """One line, empty when all went well."""
        return self.end.reason

    @property
    def samples(self) -> Samples:
        """All samples, by metric."""
        return {k: v for stage in self.stages.values() for k, v in stage.samples.items()}

    @property
    def machine(self) -> str:
        """Name of the machine that timed it, or else did the rest; "" for the run's own."""
        known = [self.stages[stage] for stage in sorted(self.stages, key=_rank)]
        return known[-1].machine

    @property
    def notes(self) -> list[str]:
        """What a reader of the samples should know."""
        return [note for stage in self.stages.values() for note in stage.notes]


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: of its journal, without the suffix.
        schema: version of the journal.
        started: ISO 8601 time, UTC.
        environment: see `harness.environment.environment`.
        machines: environments of other machines that did work, by names of their own.
        cells: in the order in which they were first heard of.
        faults: lines that could not be read, one sentence each.
        ended: whether it is whole.
    """

    name: str
    schema: int
    started: str
    environment: dict[str, Any]
    machines: dict[str, dict[str, Any]]
    cells: list[CellResult]
    faults: list[str]
    ended: bool

    def made_with(self, cell: CellResult) -> dict[str, Any]:
        """Returns the environment that a cell was measured in.

        A skipped one goes with the others: what began a run on a cluster may have measured nothing.
        """
        if "plan" in cell.stages and self.machines:
            return next(iter(self.machines.values()))
        return self.machines.get(cell.machine, self.environment)

    @property
    def measured(self) -> list[CellResult]:
        """The cells that were not skipped."""
        return [cell for cell in self.cells if "plan" not in cell.stages]


def read_run(path: Path) -> Run:
    """Reads a journal; a torn last line, left by a run that was killed, does not count.

    Kinds of events and fields that are not known here are passed over, but for the parts of a cell
    and of the environment, which are kept.

    Raises:
        ValueError: the file is not the journal of a run, or of another schema.
        OSError: it cannot be read.
    """
    lines, torn = _lines(path)
    if torn and not lines:
        raise ValueError("it has no whole line")
    start = (lines and parsed(lines[0])) or {}
    if start.get("event") != "start":
        raise ValueError("the first line is not the start of a run")
    schema = start.get("schema")
    if not isinstance(schema, int) or not 1 <= schema <= SCHEMA:
        raise ValueError(f"it has schema {schema}, this version reads 1 to {SCHEMA}")
    cells: dict[str, CellResult] = {}
    machines: dict[str, dict[str, Any]] = {}
    faults: list[str] = []
    kind = "start"
    for number, line in enumerate(lines, start=1):
        event = parsed(line)
        if event is None:
            faults.append(f"line {number} is not a JSON object")
            continue
        try:
            kind = event["event"]
            if kind == "machine":
                name, made_with = event["name"], event["environment"]
                _check_texts([name, made_with["machine"]])
                machines[name] = made_with
            for stage, result in _results(event):
                if result["id"] not in cells:
                    _check_texts([result["id"], *result["cell"].keys()])
                    cells[result["id"]] = CellResult(result["id"], result["cell"])
                cells[result["id"]].stages[stage] = _stage_result(event, result)
        except (KeyError, TypeError, AttributeError) as error:
            lacks = f"an event lacks what it should have ({error})"
            raise ValueError(f"line {number}: {lacks}") from None
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    try:
        started, environment = start["at"], start["environment"]
        _check_texts([started, *(environment[name] for name in ("commit", "changes", "machine"))])
    except (KeyError, TypeError) as error:
        raise ValueError(f"line 1: an event lacks what it should have ({error})") from None
    code = {name: environment[name] for name in ("commit", "changes")}
    return Run(
        name=path.stem,
        schema=schema,
        started=started,
        environment=environment,
        # Their code is the run's, wherever their workers have it.
        machines={name: made | code for name, made in machines.items()},
        cells=list(cells.values()),
        faults=faults,
        ended=kind == "end",
    )


def _results(event: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the stage and result of each cell that an event tells of."""
    if event["event"] == "results":
        for result in event["results"]:
            yield event["stage"], result
    elif event["event"] == "result":  # schema 1
        skipped = event["status"] == Status.SKIPPED
        yield "plan" if skipped else event["stage"], event


def _stage_result(event: dict[str, Any], result: dict[str, Any]) -> StageResult:
    samples: Samples = result["samples"]
    for name, values in samples.items():
        if not values:
            raise ValueError(f"metric {name} has no sample")
    if not set(map(type, chain.from_iterable(samples.values()))) <= _NUMBERS:
        raise ValueError("a sample is not a number")
    notes = result.get("notes", [])
    machine = event.get("on", "")
    _check_texts([result["reason"], *notes, machine])
    return StageResult(
        status=Status(result["status"]),
        reason=result["reason"],
        traceback=result.get("traceback", ""),
        samples=samples,
        notes=notes,
        seconds=event.get("seconds", 0.0),
        limits=event.get("limits", {}),
        machine=machine,
        transient=result.get("transient", False),
    )


def _check_texts(values: Iterable[Any]) -> None:
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"{value!r} is not a text")


def first_event(path: Path) -> dict[str, Any]:
    """Returns how a run began; nothing when that cannot be read."""
    with path.open("rb") as file:
        return parsed(file.readline()) or {}


def last_progress(path: Path) -> Progress | None:
    """Returns how far the run is that writes a journal; None when it has only begun."""
    for line in reversed(_lines(path)[0]):
        if b'"progress"' in line and (event := parsed(line)) and event["event"] == "progress":
            return Progress(event["done"], event["total"], event["doing"])
    return None


def _lines(path: Path) -> tuple[list[bytes], bytes]:
    """Returns the whole lines of a journal, and what follows the last of them."""
    *lines, torn = path.read_bytes().split(b"\n")
    return lines, torn


def parsed(line: bytes) -> dict[str, Any] | None:
    """Returns the event of a line; None when it is no JSON object."""
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            # Slower, and takes the infinities of a diverged cell, and half a surrogate pair, which
            # comes of file names that are no UTF-8 and is no text that a table could hold.
            text = json.dumps(json.loads(line), ensure_ascii=False)
            event = json.loads(text.encode(errors="replace"))
            orjson.dumps(event)  # raises where an integer needs more than 64 bits
        except (ValueError, TypeError, RecursionError):
            return None
    return event if isinstance(event, dict) else None
