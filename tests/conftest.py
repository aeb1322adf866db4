"""Every test runs on CPU, as four devices, with caches of its own.

XLA compiles without its slow passes: compiling a tiny model takes far longer than running it.
"""

import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=4"
    " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)
os.environ["JAXTTS_CACHE"] = os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="jaxtts-tests-")
