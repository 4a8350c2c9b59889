"""What a container, or another control group, lets this process have."""

from collections.abc import Iterator
from pathlib import Path

from harness.environment.files import known, number, read


def limits(root: Path = Path("/")) -> dict[str, float]:
    """Returns the least limits of the control groups that this process is in.

    Source: cgroup-v1 and cgroup-v2 in the documentation of the Linux kernel.

    Returns:
        "processors" that may be used at a time and "memory" in bytes, where they are limited.
    """
    quotas, memories = [], []
    for folder in _groups(root, "cpu"):
        text = read(folder / "cpu.max") or " ".join(
            read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")
        )
        quota, period = (number(part) for part in (*text.split(), "", "")[:2])
        if quota and period and quota > 0:  # "max" and -1 stand for no limit
            quotas.append(quota / period)
    for folder in _groups(root, "memory"):
        limit = number(read(folder / "memory.max") or read(folder / "memory.limit_in_bytes"))
        if limit is not None and limit < 2**60:  # version 1 says a huge number for no limit
            memories.append(limit)
    return known(
        processors=min(quotas, default=None),
        memory=min(memories, default=None),
    )


def throttled(root: Path = Path("/")) -> int | None:
    """Returns how often this process's groups had used their processor time up."""
    counts = [
        int(line.split()[1])
        for folder in _groups(root, "cpu")
        for line in read(folder / "cpu.stat").splitlines()
        if line.startswith("nr_throttled ")
    ]
    return sum(counts) if counts else None


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yields the folders of a controller's groups, the innermost first, of both versions."""
    mounted = root / "sys/fs/cgroup"
    for line in read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controller in controllers.split(","):
            top = mounted / controllers
        elif not controllers:
            top = mounted / "unified" if (mounted / "unified").is_dir() else mounted
        else:
            continue
        # A container may see its own group as the top, under the path it has outside.
        inner = Path(path.lstrip("/"))
        yield from (top / group for group in (inner, *inner.parents) if ".." not in group.parts)
