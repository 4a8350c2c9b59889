"""Programs that find two GPUs: NVIDIA's own Python library over a driver's library of ours."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("nvml.c")
# A build of torch for CUDA counts GPUs by the same library; no GPU is ever asked to compute.
BUILT_WITH_CUDA = """
import torch
torch.version.cuda = '12.9'
torch.cuda._is_compiled = lambda: True
"""


def compiled(folder: Path) -> Path:
    """Compiles the library; returns the folder that it is in."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = folder / "libnvidia-ml.so.1"
    flags = ("-shared", "-fPIC", "-Wall", "-Wextra", "-Werror")
    subprocess.run([compiler, *flags, "-o", str(library), str(SOURCE)], check=True)
    return folder


def run(library: Path, script: str, **changed: str) -> str:
    """Runs a program of a torch with CUDA; returns what it printed."""
    environment = {name: value for name, value in os.environ.items() if "CUDA" not in name}
    environment |= {"LD_LIBRARY_PATH": str(library), **changed}
    done = subprocess.run(
        [sys.executable, "-c", BUILT_WITH_CUDA + script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
