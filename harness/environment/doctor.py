"""Find what makes timings on this machine unsteady, and what to do about it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harness.environment.steadiness import Steadiness

# Measured on two virtual processors. While the test work was hardly pre-empted (1 % of the time)
# its spread was 1.02 to 1.19 and its drift 0.86 to 1.02; beside other work it waited 9 to 79 % of
# the time, with spreads of 1.04 to 2.1 and drifts of 0.5 to 1.9: waiting is the best sign.
_WAITED = 0.05
_SPREAD = 1.2
_DRIFT = 1.2
_STOLEN = 0.02  # a second on two processors has 200 ticks, and one or two are stolen at any time
_LOAD = 0.25  # of the processors
_FREE_MEMORY = 0.1  # of what there is
_FREE_DISK = 2**30
_SWAPPED = 2**26
_BUSY_GPU = 5  # per cent


@dataclass(frozen=True)
class Finding:
    """A cause of unsteady timings: the fact, its effect, and the remedy."""

    what: str
    why: str
    remedy: str


def findings(environment: dict[str, Any], steady: Steadiness | None = None) -> list[Finding]:
    """Return the causes of unsteady timings in an environment, as far as it is known.

    >>> findings({"commit": "c" * 40, "threading": {"within_an_operation": 1}})
    []
    """
    checks = (_code, _threads, _clock, _others, _room, _gpus)
    found = [finding for check in checks for finding in check(environment)]
    return found + (list(_unsteady(steady)) if steady else [])


def _code(environment: dict[str, Any]) -> Iterator[Finding]:
    if not environment.get("commit"):
        yield Finding(
            "no commit is known",
            "no state of the code can be given for figures",
            "run in the checkout, and commit",
        )
    elif environment.get("changes"):
        yield Finding(
            "there are uncommitted changes",
            "nobody else has the code that was measured",
            "commit, or let git ignore files that are not code",
        )
    build = environment.get("torch", {})
    if build.get("debug") or build.get("kind") == "Debug":
        yield Finding("torch is a debug build", "it is many times slower", "install a release")


def _threads(environment: dict[str, Any]) -> Iterator[Finding]:
    cpu = environment.get("cpu", {})
    threads = environment.get("threading", {}).get("within_an_operation", 1)
    allowed = environment.get("limits", {}).get("processors", threads)
    usable = min(cpu.get("usable", threads), environment.get("cores") or threads, allowed)
    if threads > 1 and cpu.get("virtual"):
        yield Finding(
            f"torch takes {threads} threads on virtual processors",
            "threads wait for one that is taken away: up to 30 times slower",
            "set OMP_NUM_THREADS=1",
        )
    elif threads > usable:
        yield Finding(
            f"torch takes {threads} threads for {usable:.2g} cores",
            "threads wait for one another",
            f"set OMP_NUM_THREADS={max(1, int(usable))}, or less",
        )


def _clock(environment: dict[str, Any]) -> Iterator[Finding]:
    cpu, moment = environment.get("cpu", {}), environment.get("moment", {})
    governor = cpu.get("governor", "performance")
    if governor != "performance":
        yield Finding(
            f"the frequency governor is {governor}",
            "the clock follows the load before",
            "sudo cpupower frequency-set -g performance",
        )
    if cpu.get("boost"):
        intel = cpu.get("driver", "").startswith("intel")
        value, switch = ("1", "intel_pstate/no_turbo") if intel else ("0", "cpufreq/boost")
        yield Finding(
            "turbo boost is on",
            "the clock depends on heat and on other cores",
            f"echo {value} | sudo tee /sys/devices/system/cpu/{switch}",
        )
    if cpu.get("smt"):
        yield Finding(
            "two hardware threads share each core (SMT)",
            "other work takes half of a core",
            "leave half of the processors idle, or switch SMT off",
        )
    if moment.get("overheated"):
        yield Finding(
            f"heat slowed cores down {moment['overheated']} times since the start",
            "it comes and goes while the same code runs",
            "cool the machine, or limit its frequency",
        )
    if moment.get("on_battery"):
        yield Finding("it runs on battery", "the processor saves power", "plug it in")


def _others(environment: dict[str, Any]) -> Iterator[Finding]:
    cpu, moment = environment.get("cpu", {}), environment.get("moment", {})
    logical, load = cpu.get("logical") or 1, (moment.get("load") or [0.0])[0]
    if load > _LOAD * logical:
        yield Finding(
            f"the load is {load:.2g} on {logical} processors",
            "others take processors, caches and memory bandwidth",
            "wait until they have ended",
        )
    allowed = environment.get("limits", {}).get("processors")
    if allowed is not None and allowed < logical:
        count = moment.get("throttled", 0)
        yield Finding(
            f"a quota allows {allowed:.2g} of {logical} processors, and stopped this {count} times",
            "work pauses for the rest of a period when it is used up",
            "lift the container's CPU quota, or give it processors (cpuset)",
        )


def _room(environment: dict[str, Any]) -> Iterator[Finding]:
    moment = environment.get("moment", {})
    memory = environment.get("memory") or 0
    free = moment.get("memory_free", memory)
    if free < _FREE_MEMORY * memory:
        yield Finding(
            f"{free / 2**30:.1f} of {memory / 2**30:.1f} GiB of memory are free",
            "memory is swapped, or a worker is killed",
            "end the processes that take it",
        )
    if moment.get("swap_used", 0) > _SWAPPED:
        yield Finding(
            f"{moment['swap_used'] / 2**30:.1f} GiB are swapped out",
            "swapped memory is thousands of times slower",
            "end the processes that take memory, then swapoff -a",
        )
    if moment.get("disk_free", _FREE_DISK) < _FREE_DISK:
        yield Finding(
            f"the disk of the results has {moment['disk_free'] / 2**20:.0f} MiB left",
            "a run ends when its journal cannot be written",
            "make room, or name another folder with --store",
        )


def _gpus(environment: dict[str, Any]) -> Iterator[Finding]:
    for gpu in environment.get("gpus", []):
        name = f"GPU {gpu.get('index', '')} ({gpu.get('name', '')})"
        if gpu.get("slowed"):
            yield Finding(
                f"{name} is slowed down by {' and '.join(gpu['slowed'])}",
                "its clock is lower now than at other times",
                "let it cool down, and see nvidia-smi -q -d PERFORMANCE",
            )
        if gpu.get("busy", 0) > _BUSY_GPU:
            yield Finding(
                f"{name} is busy, {gpu['busy']} %",
                "others compute on it",
                "wait until they have ended, or choose another by CUDA_VISIBLE_DEVICES",
            )


def _unsteady(steady: Steadiness) -> Iterator[Finding]:
    if steady.waited > _WAITED:
        yield Finding(
            f"the test work had to wait {100 * steady.waited:.0f} % of the time",
            "others had the processor",
            "end other processes",
        )
    if steady.spread > _SPREAD:
        yield Finding(
            f"the quartiles of the test work lie {steady.spread:.2f} times apart",
            "so will those of every timing",
            "find the other processes; on a shared machine compare only within a run",
        )
    if not 1 / _DRIFT < steady.drift < _DRIFT:
        yield Finding(
            f"the test work took {steady.drift:.2f} times as long at its end",
            "later samples seem slower or faster",
            "wait until the machine has settled",
        )
    if steady.stolen > _STOLEN:
        yield Finding(
            f"the hypervisor took {100 * steady.stolen:.0f} % of processor time",
            "other machines on the same host had it",
            "take more samples, or use a dedicated machine",
        )
    for count, whose in ((steady.throttled, "its CPU quota"), (steady.overheated, "heat")):
        if count:
            yield Finding(
                f"the test work was stopped by {whose} {count} times in a second",
                "samples that meet such a stop are longer",
                "see the line on it above",
            )
