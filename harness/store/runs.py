"""Read the journal of one run: its environment, and the results of each cell."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.cell import AXES
from harness.matrix.metrics import Samples
from harness.matrix.outcome import Status
from harness.store.events import check, check_samples, check_start, parse_event, parse_events
from harness.store.journal import SCHEMA, Progress

STAGES = ("plan", "score", "time")

_KINDS = {key: axis.kind for key, axis in AXES.items()}
_LATE = {key: axis.default for key, axis in AXES.items() if axis.late}
_RESULT = {"id": str, "cell": dict, "status": str, "reason": str, "samples": dict}


@dataclass(frozen=True)
class StageResult:
    """Result of one stage of a cell."""

    status: Status
    reason: str  # one line, empty when all went well
    traceback: str
    samples: Samples
    notes: list[str]
    seconds: float  # wall time of the work, which several cells may have shared
    limits: dict[str, float]  # "seconds" and bytes of "memory"
    machine: str = ""  # name in the journal; "" for the run's own
    transient: bool = False  # see `Outcome`


def _rank(stage: str) -> int:
    return STAGES.index(stage) if stage in STAGES else len(STAGES)


@dataclass
class CellResult:
    """All results of one cell in a run."""

    id: str
    axes: dict[str, Any]
    stages: dict[str, StageResult] = field(default_factory=dict)  # the newest of a repeated stage

    @property
    def end(self) -> StageResult:
        """The first stage that did not end well, else the last one."""
        failed = (stage for stage in self._ordered if stage.status is not Status.OK)
        return next(failed, self._ordered[-1])

    @property
    def status(self) -> Status:
        """Outcome of the cell."""
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
        """Name of the machine of the last stage; "" for the run's own."""
        return self._ordered[-1].machine

    @property
    def notes(self) -> list[str]:
        """Remarks on the samples."""
        return [note for stage in self.stages.values() for note in stage.notes]

    @property
    def _ordered(self) -> list[StageResult]:
        return [self.stages[stage] for stage in sorted(self.stages, key=_rank)]


@dataclass(frozen=True)
class Run:
    """One run."""

    name: str  # of its journal, without the suffix
    schema: int
    started: str  # ISO 8601 time, UTC
    environment: dict[str, Any]
    machines: dict[str, dict[str, Any]]  # environments of other machines that did work, by name
    cells: list[CellResult]  # in the order of their first results
    faults: list[str]  # lines that could not be read, one sentence each
    ended: bool  # whether it came to its end

    def made_with(self, cell: CellResult) -> dict[str, Any]:
        """Return the environment in which a cell was measured.

        That of a skipped cell is the first worker's: on a cluster, the machine that starts a run
        may measure nothing.
        """
        if "plan" in cell.stages and self.machines:
            return next(iter(self.machines.values()))
        return self.machines.get(cell.machine, self.environment)

    @property
    def measured(self) -> list[CellResult]:
        """The cells that were not skipped."""
        return [cell for cell in self.cells if "plan" not in cell.stages]


def read_run(path: Path) -> Run:
    """Read the journal of a run; see `parse_run`."""
    return parse_run(path.stem, path.read_bytes())


def parse_run(name: str, content: bytes) -> Run:
    """Parse the journal of a run; a torn last line, left by a run that was killed, does not count.

    Unknown kinds of events and unknown fields are passed over, except parts of a cell and of the
    environment, which are kept.

    Raises:
        ValueError: it is not the journal of a run, or of another schema.
    """
    events = parse_events(content, "run", SCHEMA)
    cells: dict[str, CellResult] = {}
    machines: dict[str, dict[str, Any]] = {}
    kind = "start"
    line = 1
    try:
        check_start(events.start)
        for line, event in events.others:  # ruff: ignore[unused-loop-control-variable] (used below)
            check(event, {"event": str})
            kind = event["event"]
            if kind == "machine":
                check(event, {"name": str, "environment": dict})
                check(event["environment"], {"machine": str})
                machines[event["name"]] = event["environment"]
            for stage, result in _results(event):
                check(result, _RESULT)
                if result["id"] not in cells:
                    axes = _LATE | result["cell"]
                    check(axes, _KINDS)
                    cells[result["id"]] = CellResult(result["id"], axes)
                cells[result["id"]].stages[stage] = _stage_result(event, result)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"line {line}: {error}") from None
    environment = events.start["environment"]
    code = {name: environment[name] for name in ("commit", "changes")}
    return Run(
        name=name,
        schema=events.start["schema"],
        started=events.start["at"],
        environment=environment,
        # Their code is the run's, wherever their workers have it.
        machines={name: made | code for name, made in machines.items()},
        cells=list(cells.values()),
        faults=events.faults,
        ended=kind == "end",
    )


def _results(event: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield stage and result of each cell of an event."""
    if event["event"] == "results":
        for result in event["results"]:
            yield event["stage"], result
    elif event["event"] == "result":  # schema 1
        skipped = event["status"] == Status.SKIPPED
        yield "plan" if skipped else event["stage"], event


def _stage_result(event: dict[str, Any], result: dict[str, Any]) -> StageResult:
    check_samples(result["samples"])
    notes, machine = result.get("notes", []), event.get("on", "")
    if not all(isinstance(text, str) for text in (*notes, machine)):
        raise ValueError("a note, or the name of a machine, is not of type str")
    return StageResult(
        status=Status(result["status"]),
        reason=result["reason"],
        traceback=result.get("traceback", ""),
        samples=result["samples"],
        notes=notes,
        seconds=event.get("seconds", 0.0),
        limits=event.get("limits", {}),
        machine=machine,
        transient=result.get("transient", False),
    )


def last_progress(path: Path) -> Progress | None:
    """Return the progress of the run that writes a journal; None when it has only begun."""
    lines = path.read_bytes().split(b"\n")[:-1]
    for line in reversed(lines):
        if b'"progress"' in line and (event := parse_event(line)) and event["event"] == "progress":
            return Progress(event["done"], event["total"], event["doing"])
    return None
