"""Facts on GPUs, by NVIDIA's Python library over a driver's library that is made up."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.environment.gpus import gpus, missing_device, visible
from harness.probes.interference import gpu_notes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs LD_LIBRARY_PATH")

# A build of torch for CUDA counts GPUs by NVML; no GPU is ever asked to compute.
BUILT_WITH_CUDA = """
import torch
torch.version.cuda = '12.9'
torch.cuda._is_compiled = lambda: True
"""
# What torch would say of the GPU in use, and how it would wait for it.
IN_USE = """
from types import SimpleNamespace
torch.cuda.get_device_properties = lambda device: SimpleNamespace(uuid=UUID)
torch.cuda.synchronize = lambda device: waited.append(device)
waited = []
"""
VARIANTS = (
    *(("UNUSED", "1"), ("FALSE_DRIVER", "old"), ("FALSE_MIG", "1")),
    *(("FALSE_GPUS", "0"), ("FALSE_GPUS", "none")),
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile a driver's library of two GPUs; return the folder that it is in."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = tmp_path_factory.mktemp("driver") / "libnvidia-ml.so.1"
    source = Path(__file__).with_name("support") / "nvml.c"
    flags = ("-shared", "-fPIC", "-Wall", "-Wextra", "-Werror")
    subprocess.run([compiler, *flags, "-o", str(library), str(source)], check=True)
    return library.parent


def run(library: Path, script: str, **changed: str) -> str:
    """Run a program with a torch for CUDA; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if "CUDA" not in name}
    environment |= {"LD_LIBRARY_PATH": str(library), **changed}
    command = [sys.executable, "-c", BUILT_WITH_CUDA + script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def each(driver: Path, imported: str, called: str, cases: list[tuple[str, dict[str, str]]]) -> Any:
    """Call a function in one process for each UUID, with some variables set."""
    script = f"""
UUID = ''{IN_USE}
import json, os
from unittest.mock import patch
{imported}
results = []
for UUID, changed in {cases!r}:
    with patch.dict(os.environ, changed):
        results.append({called})
print(json.dumps(results))
"""
    return json.loads(run(driver, script))


def test_gpus_are_those_of_the_driver(driver: Path) -> None:
    variants = [("", {name: value}) for name, value in VARIANTS]
    imported = "from harness.environment.gpus import gpus"
    usual, old, divided, *none = each(driver, imported, "gpus()", variants)
    assert usual == [
        {
            **{"index": "0", "id": "GPU-11aa", "name": "NVIDIA H200", "driver": "580.159.03"},
            **{"cuda": "12.8", "capability": "9.0", "cores": 16896, "memory": 143771 * 2**20},
            **{"ecc": True, "mig": False, "mhz": 345, "most_mhz": 1980, "memory_mhz": 3201},
            **{"busy": 0, "power_limit": 700, "slowed": []},
        },
        {
            **{"index": "1", "id": "GPU-22bb", "name": "NVIDIA T4", "driver": "580.159.03"},
            **{"cuda": "12.8", "capability": "7.5", "slowed": ["heat", "power limit"]},
        },
    ]

    assert [gpu | {"busy": None} for gpu in old] == [gpu | {"busy": None} for gpu in usual]
    assert divided[0]["mig"] is True
    assert "busy" not in divided[0]
    assert none == [[], []]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_driver_there_are_none() -> None:
    assert gpus() == []


def test_visible_gpus_are_chosen_as_cuda_does(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [{"index": str(i), "id": f"GPU-{i}{i}", "name": f"gpu {i}"} for i in range(3)]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for chosen, names in {
        "": [],
        "0,2": ["gpu 0", "gpu 2"],
        "2, 1": ["gpu 2", "gpu 1"],
        "GPU-1": ["gpu 1"],
        "1,-1,2": ["gpu 1"],
        "7": [],
    }.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        assert visible(found) == names, chosen
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert len(visible(found)) == 3
    monkeypatch.setattr(torch.version, "cuda", None)
    assert visible(found) == []


def test_cuda_is_not_initialised(driver: Path) -> None:
    # A build without CUDA raises where CUDA would be initialised, one with CUDA says so.
    script = """
from harness.environment import environment
from harness.environment.steadiness import steadiness
from harness.environment.gpus import missing_device
from harness.environment.doctor import findings
known = environment(); findings(known, steadiness())
assert known['devices'] == ['NVIDIA H200', 'NVIDIA T4'], known['devices']
assert missing_device('cuda:0') is None
assert not torch.cuda.is_initialized()
"""
    run(driver, script)


def test_why_a_device_cannot_be_used(driver: Path) -> None:
    # The facts that each reason has, in their order.
    cases: list[tuple[str, dict[str, str], str | None]] = [
        ("cuda:1", {}, None),
        ("cuda:2", {}, "2 GPUs, cuda:0 to cuda:1"),
        ("cuda:1", {"FALSE_GPUS": "1"}, "1 GPU, cuda:0"),
        ("cuda:0", {"FALSE_GPUS": "0"}, "no GPU"),
        ("cuda:1", {"CUDA_VISIBLE_DEVICES": "1"}, "CUDA_VISIBLE_DEVICES='1' .* cuda:0, of 2"),
        ("cuda:0", {"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES='' .* of 2"),
        ("cuda:0", {"CUDA_VISIBLE_DEVICES": "GPU-22"}, None),
        ("cuda:0", {"FALSE_CUDA": "11080"}, "12.9.* 11.8"),
    ]
    imported = "from harness.environment.gpus import missing_device"
    called = "missing_device.__wrapped__(UUID)"  # without its memory
    reasons = each(driver, imported, called, [(device, changed) for device, changed, _ in cases])
    for reason, (device, _, facts) in zip(reasons, cases, strict=True):
        assert (reason is None) == (facts is None), (device, reason)
        assert facts is None or re.search(f"^{device}: .*{facts}", reason), (device, reason)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_torch_or_a_machine_without_cuda(tmp_path: Path) -> None:
    script = "from harness.environment.gpus import missing_device\nprint(missing_device('cuda:0'))"
    # torch's own library is not there to be asked for a number.
    script = "torch._C._cuda_getDeviceCount = lambda: 0\n" + script
    assert run(tmp_path, script) == "cuda:0: no NVIDIA driver was found"
    assert missing_device("cpu") is None
    if torch.version.cuda is None:
        assert missing_device("cuda:0") == "cuda:0: this torch is built without CUDA"


def test_what_disturbs_the_gpu_in_use(driver: Path) -> None:
    """By its identity, whatever its number is; processes may have other numbers in a container."""
    cases: dict[tuple[str, str, str], list[str]] = {
        ("11aa", "2", "1"): [],  # idle, which is no fault
        ("22bb", "2", "1"): ["the GPU was slowed down at the end by heat and power limit"],
        ("44dd", "2", "1"): [],
        ("11aa", "2", "0"): [],
        ("11aa", "2", "2"): ["another process had the GPU in use at the end"],
        ("11aa", "2", "9"): ["8 other processes had the GPU in use at the end"],
        ("11aa", "none", "9"): [],
    }
    changed = [
        (uuid, {"FALSE_GPUS": gpus, "FALSE_PROCESSES": running}) for uuid, gpus, running in cases
    ]
    imported = "from harness.probes.interference import gpu_notes"
    assert each(driver, imported, "gpu_notes('cuda:0')", changed) == [*cases.values()]
    assert gpu_notes("cpu") == []


def test_utilisation_is_read_while_the_work_is_repeated(driver: Path) -> None:
    script = f"""
UUID = '11aa'{IN_USE}
import json, time
from harness.probes.utilisation import utilisation
calls = []
def work():
    time.sleep(0.01); calls.append(1)
print(json.dumps([utilisation(work, 'cuda:0'), len(calls) == len(waited) > 0]))
"""
    shares, waited_each_time = json.loads(run(driver, script))
    assert shares  # from the first question on the driver's answer grows by 1
    assert shares == [float(1 + index) for index in range(len(shares))]
    assert waited_each_time


def test_nothing_is_repeated_where_utilisation_is_unknown(driver: Path) -> None:
    cases = [
        ("22bb", {}),
        ("11aa", {"FALSE_MIG": "1"}),
        ("33cc", {"FALSE_MIG": "1"}),
        ("11aa", {"FALSE_GPUS": "none"}),
    ]
    imported = "from harness.probes.utilisation import utilisation\nnever = [].pop"
    assert each(driver, imported, "utilisation(never, 'cuda:0')", cases) == [[]] * len(cases)


def test_utilisation_stands_beside_the_times_of_a_gpu(driver: Path) -> None:
    """Time a group on the CPU as if on a GPU: each estimator has a utilisation."""
    script = f"""
UUID = '11aa'{IN_USE}
import json
from harness.cell import Cell
from harness.probes import time, utilisation
from harness.running import measures
time._CudaClock = lambda device: time._Clock()
utilisation.SECONDS, utilisation._WINDOWS = 0.2, (0.02, 0.05)
build, names = measures.bilevel_problem, ("fomaml", "maml")
measures.bilevel_problem = lambda *parts, dtype, device: build(*parts, dtype=dtype, device="cpu")
cells = [
    Cell.of(estimator=e, task="sinusoid", model="mlp-40-40", depth=1, device=d)
    for d in ("cuda:0", "cpu") for e in names
]
on_gpu, on_cpu = (measures.time_group(cells[at : at + 2], 6) for at in (0, 2))
print(json.dumps([[sorted(s) for s, _ in timed] for timed in (on_gpu, on_cpu)]))
"""
    on_gpu, on_cpu = json.loads(run(driver, script, FALSE_PROCESSES="1"))
    assert [set(names) - {"utilisation"} for names in on_gpu] == [set(names) for names in on_cpu]
    assert all("utilisation" in names for names in on_gpu)
