"""The build of torch, and its settings in this process."""

import os
import re
from typing import Any, cast

import torch

from harness.environment.machine import known

# Of libraries of linear algebra, OpenMP, CUDA and the C library's allocator.
_VARIABLES = (
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_", "VECLIB_", "DNNL_", "ONEDNN_"),
    *("ATEN_", "PYTORCH_", "CUDA_", "CUBLAS_", "CUDNN_", "NVIDIA_", "MALLOC_", "LD_PRELOAD"),
)


def build() -> dict[str, Any]:
    """Return the properties of torch's build that decide its speed, if known."""
    shown = torch.__config__.show()
    settings = dict(re.findall(r"(\w+)=(.*?), ", shown))
    flags = re.findall(r"(?<=\s)-(?:O\w+|m\S+|DNDEBUG)", settings.get("CXX_FLAGS", ""))
    return known(
        version=torch.__version__,
        commit=torch.version.git_version,
        debug=torch.version.debug,
        kind=settings.get("BUILD_TYPE"),
        compiler=_found(r"- ((?:GCC|clang|Clang|MSVC) .*)", shown),
        flags=" ".join(flags),
        capability=torch.backends.cpu.get_cpu_capability(),
        blas=settings.get("BLAS_INFO"),
        lapack=settings.get("LAPACK_INFO"),
        mkl=_found(r"Math Kernel Library Version (\S+)", shown),
        onednn=_found(r"MKL-DNN v(\S+)", shown),
        openmp=_found(r"OpenMP (\d+)", shown),
        cuda=torch.version.cuda,
        rocm=torch.version.hip,
        cudnn=_cudnn(),
    )


def _cudnn() -> int | None:
    try:
        return cast(int | None, torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    except RuntimeError:  # not the version that torch was built with
        return None


def threading() -> dict[str, Any]:
    """Return the numbers of threads of torch and their library."""
    shown = torch.__config__.parallel_info()
    return known(
        within_an_operation=torch.get_num_threads(),
        between_operations=torch.get_num_interop_threads(),
        backend=_found(r"ATen parallel backend: (.*)", shown),
    )


def variables() -> dict[str, str]:
    """Return the environment variables that change the speed of numerical libraries."""
    return {
        name: value for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES)
    }


def fixed_flags() -> dict[str, Any]:
    """Fix torch's settings in this process, and return those of products and convolutions.

    float32 is IEEE's: by default torch rounds convolutions on GPUs to TF32, to ten bits. cuDNN
    uses algorithms that repeat their results to the bit, and does not choose the quickest by
    trying: that would differ from run to run, and with it result, time and memory. Tensors are
    made on the CPU and in float32 where nothing else is said.
    """
    cudnn: Any = torch.backends.cudnn
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "ieee"
    cudnn.benchmark, cudnn.deterministic = False, True
    return known(
        matmul_precision=torch.get_float32_matmul_precision(),
        cuda_matmul=torch.backends.cuda.matmul.fp32_precision,
        cudnn_convolution=cudnn.conv.fp32_precision,
        cudnn_recurrent=cudnn.rnn.fp32_precision,
        cudnn_enabled=cudnn.enabled,
        cudnn_benchmark=cudnn.benchmark,
        cudnn_deterministic=cudnn.deterministic,
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )


def _found(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match[1].strip() if match else None
