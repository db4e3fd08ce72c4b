"""How a representation stands to its contexts and tasks: relations beside chance.

With `evaluation.kernel_alignment` (inputs with inputs, and by `op.T` contexts with
contexts) these are the six relations of a representation and its contexts.
"""

from contexture_jax.diagnostics._relations import (
    CrossTask,
    InputOutput,
    LayerProfile,
    compositionality,
    cross_task,
    hierarchy,
    input_output,
)

__all__ = [
    "CrossTask",
    "InputOutput",
    "LayerProfile",
    "compositionality",
    "cross_task",
    "hierarchy",
    "input_output",
]
