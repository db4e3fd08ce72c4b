"""Pictures of spectra and functions, by matplotlib's object interface (extra `plot`).

Each function draws on the `Axes` that it is given, or on a new figure of its own, and
returns the `Axes`; `save` writes the figure of one. Nothing here touches pyplot.
"""

from contexture_jax.plotting._benchmarks import (
    plot_roofline,
    plot_seconds,
    plot_speeds,
)
from contexture_jax.plotting._curve import plot_learning_curve
from contexture_jax.plotting._energy import plot_target_energy
from contexture_jax.plotting._functions import plot_functions
from contexture_jax.plotting._learned import plot_learned_spectrum, plot_loss
from contexture_jax.plotting._matrix import plot_matrix
from contexture_jax.plotting._ranking import plot_ranking
from contexture_jax.plotting._scaling import plot_scaling
from contexture_jax.plotting._spectrum import plot_spectrum
from contexture_jax.plotting._style import save
from contexture_jax.plotting._tradeoff import plot_tradeoff
from contexture_jax.plotting._usefulness import plot_usefulness

__all__ = [
    "plot_functions",
    "plot_learned_spectrum",
    "plot_learning_curve",
    "plot_loss",
    "plot_matrix",
    "plot_ranking",
    "plot_roofline",
    "plot_scaling",
    "plot_seconds",
    "plot_spectrum",
    "plot_speeds",
    "plot_target_energy",
    "plot_tradeoff",
    "plot_usefulness",
    "save",
]
