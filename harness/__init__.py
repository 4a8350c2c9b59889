"""Measures meta-gradient estimators: tasks, models, probes, runner, store, command line."""

import os

# Two OpenMP threads can be 30 times slower than one on virtual processors, and must be set
# before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Asking whether there is a GPU must not initialise CUDA in the process that starts workers.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
# Its profiler would tell of every profile.
os.environ.setdefault("KINETO_LOG_LEVEL", "9")
