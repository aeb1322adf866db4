"""Every test runs on CPU, as four devices, with caches of its own.

XLA compiles without its slow passes, since compiling a tiny model takes far longer than running it. To test programs as
users get them: `XLA_FLAGS=--xla_force_host_platform_device_count=4 pytest`, which takes much longer.
"""

import os
import tempfile
from importlib.metadata import version

flags = ["--xla_force_host_platform_device_count=4", "--xla_backend_optimization_level=0"]
flags += ["--xla_llvm_disable_expensive_passes=true"]
if version("jaxlib").startswith("0.10."):  # XLA ends the process at flags that it does not know, as later ones do here
    flags += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("XLA_FLAGS", " ".join(flags))
os.environ["JAXTTS_CACHE"] = os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="jaxtts-tests-")
