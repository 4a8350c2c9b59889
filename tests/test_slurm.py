"""`metagrad run --executor slurm`: jobs are real ones, of a SLURM that runs them right here."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from harness.store.runs import read_run
from tests.support.commands import COMMAND, TINY, estimators, variables, wait_for

# What is handed in runs in a session of its own, by whose number it can be cancelled.
SBATCH = """#!/bin/sh
[ "$1" = --test-only ] && exec grep -q "^#SBATCH -A learning" -
for script; do :; done
cp "$script" "$JOBS/script.$$"
setsid sh "$JOBS/script.$$" >"$JOBS/log.$$" 2>&1 &
echo $! >>"$JOBS/started"
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
for job; do kill -9 -- "-$job"; echo "$job" >>"$JOBS/cancelled"; done
"""
CONFIGURED = """jobqueue:
  slurm:
    queue: meta
    account: learning
    walltime: '01:30:00'
    cores: 1
    memory: 2 GiB
    scheduler-options:
      host: 127.0.0.1
      dashboard_address: 127.0.0.1:0
"""


@pytest.fixture
def slurm(tmp_path: Path) -> "dict[str, str]":
    """Variables with which there is a SLURM, and a user's configuration of it."""
    commands, jobs, config = (tmp_path / name for name in ("bin", "jobs", "config"))
    for folder in (commands, jobs, config):
        folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (commands / name).write_text(text, encoding="ascii")
        (commands / name).chmod(0o755)
    (config / "jobqueue.yaml").write_text(CONFIGURED, encoding="ascii")
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "JOBS": str(jobs), "DASK_CONFIG": str(config)}


def run(folder: Path, slurm: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [COMMAND, "run", *TINY, *estimators("fomaml", "maml"), "--depth", "1", *arguments],
        cwd=folder,
        env=os.environ | variables(folder) | slurm,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_jobs_do_the_work_and_are_cancelled(tmp_path: Path, slurm: dict[str, str]) -> None:
    code, out, error = run(tmp_path, slurm, "--executor", "slurm", "--jobs", "2")
    assert (code, error) == (0, ""), out
    (journal,) = (tmp_path / "results" / "runs").glob("*.jsonl")
    read = read_run(journal)
    assert [cell.status for cell in read.cells] == ["ok", "ok"]
    assert read.machines
    jobs = Path(slurm["JOBS"])
    started, cancelled = (
        (jobs / name).read_text(encoding="ascii").split() for name in ("started", "cancelled")
    )
    assert len(started) == 2
    assert sorted(cancelled) == sorted(started)
    wait_for(lambda: not any(_alive(int(job)) for job in started))


def _alive(job: int) -> bool:
    with suppress(ProcessLookupError):
        os.killpg(job, 0)
        return True
    return False


def test_a_dry_run_prints_the_script_and_hands_nothing_in(
    tmp_path: Path, slurm: dict[str, str]
) -> None:
    code, out, error = run(
        tmp_path, slurm, "--executor", "slurm", "--jobs", "64", "--dry-run", "--samples", "0"
    )
    assert (code, error) == (0, ""), out
    assert "Asked of 64 jobs of SLURM" in out
    for line in (
        "#SBATCH -p meta",
        "#SBATCH -A learning",
        "#SBATCH --cpus-per-task=1",
        "#SBATCH --mem=2G",
        "#SBATCH -t 01:30:00",
    ):
        assert line in out.splitlines()
    assert "--resources cpu=1" in out
    assert "--no-nanny" in out
    assert not list(Path(slurm["JOBS"]).iterdir())


def test_a_job_has_one_gpu(tmp_path: Path, slurm: dict[str, str]) -> None:
    code, out, error = run(tmp_path, slurm, "--executor", "slurm", "--dry-run", "--device", "cuda")
    assert (code, error) == (0, ""), out
    assert "#SBATCH --gres=gpu:1" in out.splitlines()
    assert "--resources cuda:0=1" in out


@pytest.mark.parametrize("devices", [("cpu", "cuda"), ("cuda:1",)])
def test_more_than_one_device_is_refused(
    tmp_path: Path, slurm: dict[str, str], devices: tuple[str, ...]
) -> None:
    named = (part for device in devices for part in ("--device", device))
    code, _, error = run(tmp_path, slurm, "--executor", "slurm", *named)
    assert code == 2
    assert "a job of SLURM has one device" in error
    assert len(error.splitlines()) == 1
    assert not list(Path(slurm["JOBS"]).iterdir())


def test_jobs_that_slurm_refuses_are_told(tmp_path: Path, slurm: dict[str, str]) -> None:
    refusing = Path(slurm["PATH"].partition(os.pathsep)[0]) / "sbatch"
    refusing.write_text("#!/bin/sh\necho 'Invalid account' >&2\nexit 1\n", encoding="ascii")
    code, _, error = run(tmp_path, slurm, "--executor", "slurm", "--jobs", "1")
    assert code == 2
    assert "SLURM does not take the jobs" in error
    assert "Invalid account" in error
    assert len(error.splitlines()) == 1
    refusing.unlink()
    code, _, error = run(tmp_path, slurm, "--executor", "slurm", "--jobs", "1")
    assert (code, error.count("\n")) == (2, 1)
    assert "there is no sbatch here" in error
