"""What has to be set before JAX is: a compiler for programs that run once.

Most of the time of tests and doctests is compiling. On CPU the older of XLA's two ways
to write loops compiles them in two thirds of the time; the results are the same to
rounding. XLA ends a process that names a flag which it does not have, as it does in
newer releases, so that those test the newer way, as do the lowest here.
"""

import os
from importlib.metadata import version

_FLAG = "--xla_cpu_use_fusion_emitters=false"
# Where it was tried.
if version("jaxlib").startswith(("0.9.", "0.10.")):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}".strip()
