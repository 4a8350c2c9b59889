"""What is told of GPUs, by NVIDIA's Python library over a driver's library that is made up."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.environment.gpus import gpus, missing_device, visible
from harness.probes.interference import gpu_notes
from tests.support.false_driver import compiled, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs LD_LIBRARY_PATH")

# What torch would say of the GPU in use, and how it would wait for it.
IN_USE = """
from types import SimpleNamespace
torch.cuda.get_device_properties = lambda device: SimpleNamespace(uuid=UUID)
torch.cuda.synchronize = lambda device: waited.append(device)
waited = []
"""
VARIANTS = (
    ("UNUSED", "1"),
    ("FALSE_DRIVER", "old"),
    ("FALSE_MIG", "1"),
    ("FALSE_GPUS", "0"),
    ("FALSE_GPUS", "none"),
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("driver"))


def found(driver: Path, **changed: str) -> Any:
    script = "import json\nfrom harness.environment.gpus import gpus\nprint(json.dumps(gpus()))"
    return json.loads(run(driver, script, **changed))


def test_gpus_are_what_the_driver_tells(driver: Path) -> None:
    assert found(driver) == [
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


def test_drivers_differ(driver: Path) -> None:
    found_by = each(
        driver,
        "from harness.environment.gpus import gpus",
        "gpus()",
        [("", {name: value}) for name, value in VARIANTS],
    )
    usual, old, divided, *none = found_by
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
    cases: list[tuple[str, dict[str, str], str | None]] = [
        ("cuda:1", {}, None),
        ("cuda:2", {}, "there are 2 GPUs, cuda:0 to cuda:1"),
        ("cuda:1", {"FALSE_GPUS": "1"}, "there is 1 GPU, cuda:0"),
        ("cuda:0", {"FALSE_GPUS": "0"}, "there is no GPU"),
        (
            *("cuda:1", {"CUDA_VISIBLE_DEVICES": "1"}),
            "CUDA_VISIBLE_DEVICES='1' leaves 1 GPU, cuda:0, of 2",
        ),
        ("cuda:0", {"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES='' leaves no GPU, of 2"),
        ("cuda:0", {"CUDA_VISIBLE_DEVICES": "GPU-22"}, None),
        (
            *("cuda:0", {"FALSE_CUDA": "11080"}),
            "this torch is for CUDA 12.9, the driver here for no more than 11.8",
        ),
    ]
    told = each(
        driver,
        "from harness.environment.gpus import missing_device",
        "missing_device.__wrapped__(UUID)",  # without its memory
        [(device, changed) for device, changed, _ in cases],
    )
    assert told == [f"{device}: {why}" if why else None for device, _, why in cases]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_torch_or_a_machine_without_cuda_is_told(tmp_path: Path) -> None:
    script = "from harness.environment.gpus import missing_device\nprint(missing_device('cuda:0'))"
    # torch's own library is not there to be asked for a number.
    script = "torch._C._cuda_getDeviceCount = lambda: 0\n" + script
    assert run(tmp_path, script) == "cuda:0: no NVIDIA driver was found"
    assert missing_device("cpu") is None
    if torch.version.cuda is None:
        assert missing_device("cuda:0") == "cuda:0: this torch is built without CUDA"


def each(driver: Path, imported: str, called: str, cases: list[tuple[str, dict[str, str]]]) -> Any:
    """Calls a function for each case in one process: a first word for it, and what is set then."""
    script = f"""
UUID = ''{IN_USE}
import json, os
from unittest.mock import patch
{imported}
told = []
for UUID, changed in {cases!r}:
    with patch.dict(os.environ, changed):
        told.append({called})
print(json.dumps(told))
"""
    return json.loads(run(driver, script))


def test_what_disturbs_the_gpu_in_use_is_told(driver: Path) -> None:
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


def readings(driver: Path) -> Any:
    script = (
        f"UUID = '11aa'{IN_USE}"
        "import json, time\nfrom harness.probes.utilisation import utilisation\n"
        "calls = []\n"
        "def work():\n    time.sleep(0.01); calls.append(time.perf_counter())\n"
        "told = utilisation(work, 'cuda:0')\n"
        "took = calls[-1] - calls[0] if calls else 0\n"
        "print(json.dumps([told, took, len(calls) == len(waited)]))"
    )
    return json.loads(run(driver, script))


def test_utilisation_is_read_while_the_work_is_repeated(driver: Path) -> None:
    told, took, waited_each_time = readings(driver)
    assert 1.8 < took < 4
    assert 4 <= len(told) <= 7  # of the second second, six times a second
    assert told == [float(1 + index) for index in range(len(told))]  # the first was a question
    assert waited_each_time


def test_nothing_is_repeated_where_utilisation_is_not_told(driver: Path) -> None:
    cases = [
        ("22bb", {}),
        ("11aa", {"FALSE_MIG": "1"}),
        ("33cc", {"FALSE_MIG": "1"}),
        ("11aa", {"FALSE_GPUS": "none"}),
    ]
    imported = "from harness.probes.utilisation import utilisation\nnever = [].pop"
    assert each(driver, imported, "utilisation(never, 'cuda:0')", cases) == [[]] * len(cases)


def test_utilisation_stands_beside_the_times_of_a_gpu(driver: Path) -> None:
    """What times a group on the CPU, told that it is a GPU, has utilisation of each estimator."""
    script = f"""
UUID = '11aa'{IN_USE}
import json
from harness.cell import Cell
from harness.probes import time, utilisation
from harness.running import measures
time._CudaClock = lambda device: time._Clock()
utilisation._SECONDS, utilisation._WINDOWS = 0.2, (0.02, 0.05)
build, names = measures.bilevel_problem, ("fomaml", "maml")
measures.bilevel_problem = lambda *parts, dtype, device: build(*parts, dtype=dtype, device="cpu")
cells = [
    Cell.of(estimator=e, task="sinusoid", model="mlp-40-40", depth=1, device=d)
    for d in ("cuda:0", "cpu") for e in names
]
on_gpu, on_cpu = (measures.time_group(cells[at : at + 2], 6) for at in (0, 2))
print(json.dumps([[sorted(found) for found, _ in told] for told in (on_gpu, on_cpu)]))
"""
    on_gpu, on_cpu = json.loads(run(driver, script, FALSE_PROCESSES="1"))
    assert [set(told) - {"utilisation"} for told in on_gpu] == [set(told) for told in on_cpu]
    assert all("utilisation" in told for told in on_gpu)
