"""Predicting a target from functions of a context, or from the context itself.

Probes of functions or embeddings (`ridge`, `logistic`, `nearest_neighbors`), kernel
regression with a transformed dual kernel (`stkr`, `choose_stkr`), label propagation
(`label_propagation`, `choose_propagation`), all of them side by side (`predict_each`,
`compare_predictors`), and the error to expect before anything is trained
(`forecast_error`) beside what is then measured (`learning_curve`).
"""

from contexture_jax.prediction._choice import (
    PropagationChoice,
    STKRChoice,
    choose_propagation,
    choose_stkr,
)
from contexture_jax.prediction._compare import (
    Comparison,
    Prediction,
    compare_predictors,
    labelled_splits,
    predict_each,
)
from contexture_jax.prediction._forecast import (
    ErrorForecast,
    LearningCurve,
    forecast_error,
    learning_curve,
    ridge_error,
)
from contexture_jax.prediction._logistic import LogisticFit, logistic
from contexture_jax.prediction._near import NeighborsFit, nearest_neighbors
from contexture_jax.prediction._probe import Probe, held_out_rows, linear_probe
from contexture_jax.prediction._propagation import Propagation, label_propagation
from contexture_jax.prediction._ridge import RidgeFit, ridge
from contexture_jax.prediction._status import FitStatus
from contexture_jax.prediction._stkr import STKRFit, stkr
from contexture_jax.prediction._transform import (
    SpectralTransform,
    Truncation,
    inverse_laplacian,
    inverse_polynomial,
    polynomial,
    truncation,
)

__all__ = [
    "Comparison",
    "ErrorForecast",
    "FitStatus",
    "LearningCurve",
    "LogisticFit",
    "NeighborsFit",
    "Prediction",
    "Probe",
    "Propagation",
    "PropagationChoice",
    "RidgeFit",
    "STKRChoice",
    "STKRFit",
    "SpectralTransform",
    "Truncation",
    "choose_propagation",
    "choose_stkr",
    "compare_predictors",
    "forecast_error",
    "held_out_rows",
    "inverse_laplacian",
    "inverse_polynomial",
    "label_propagation",
    "labelled_splits",
    "learning_curve",
    "linear_probe",
    "logistic",
    "nearest_neighbors",
    "polynomial",
    "predict_each",
    "ridge",
    "ridge_error",
    "stkr",
    "truncation",
]
