"""Training an encoder: a step, its compilation for devices, data, and the loop.

`make_step` joins an encoder, an objective and an optimiser into one pure function;
`compile_step` compiles it for one device or many; `fit` runs it over data, with
metrics, checkpoints and a resume that continues bit for bit. Each works without the
next.
"""

from contexture_jax.training._data import Batches, batches
from contexture_jax.training._errors import CheckpointError
from contexture_jax.training._fit import fit
from contexture_jax.training._loop import FitResult, FitStatus
from contexture_jax.training._objective import from_loss
from contexture_jax.training._options import Checkpoints, Devices, Logging, Monitor
from contexture_jax.training._pairs import (
    PairBatch,
    PairBatches,
    pair_batches,
    takes_numbers,
)
from contexture_jax.training._parallel import (
    CompiledStep,
    compile_step,
    data_mesh,
    global_batch,
)
from contexture_jax.training._prefetch import prefetch
from contexture_jax.training._schedules import warmup_cosine
from contexture_jax.training._state import TrainState, init_state
from contexture_jax.training._step import make_step, per_row

__all__ = [
    "Batches",
    "CheckpointError",
    "Checkpoints",
    "CompiledStep",
    "Devices",
    "FitResult",
    "FitStatus",
    "Logging",
    "Monitor",
    "PairBatch",
    "PairBatches",
    "TrainState",
    "batches",
    "compile_step",
    "data_mesh",
    "fit",
    "from_loss",
    "global_batch",
    "init_state",
    "make_step",
    "pair_batches",
    "per_row",
    "prefetch",
    "takes_numbers",
    "warmup_cosine",
]
