"""Learning a context: from its pairs to functions in order, at any input.

`learn` joins batches of pairs, encoders for the kinds of input, an objective by name,
the loop and Rayleigh–Ritz; what it gives can be saved to one file, which `load` reads
in another process, and exported.
"""

from contexture_jax.learning._learn import learn
from contexture_jax.learning._learned import Functions, Learned, load
from contexture_jax.learning._objectives import OBJECTIVES, Objective
from contexture_jax.learning._towers import Encoder, Tower

__all__ = [
    "OBJECTIVES",
    "Encoder",
    "Functions",
    "Learned",
    "Objective",
    "Tower",
    "learn",
    "load",
]
