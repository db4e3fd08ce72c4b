"""How a representation stands to its contexts and tasks: relations beside chance.

With `evaluation.kernel_alignment` (inputs with inputs, and by `op.T` contexts with
contexts) these are the six relations of a representation and its contexts. Layers and
models are contexts, too: the heads of attention, and the kernel of their gradients.
"""

from contexture_jax.diagnostics._attention import (
    HeadProfile,
    attention_heads,
    attention_rollout,
    head_profile,
)
from contexture_jax.diagnostics._relations import (
    CrossTask,
    InputOutput,
    LayerProfile,
    compositionality,
    cross_task,
    hierarchy,
    input_output,
)
from contexture_jax.diagnostics._tangent import TangentOperator, tangent_operator

__all__ = [
    "CrossTask",
    "HeadProfile",
    "InputOutput",
    "LayerProfile",
    "TangentOperator",
    "attention_heads",
    "attention_rollout",
    "compositionality",
    "cross_task",
    "head_profile",
    "hierarchy",
    "input_output",
    "tangent_operator",
]
