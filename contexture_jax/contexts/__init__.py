"""Contexts: joint laws P⁺(x, a) of an input and a context variable."""

from contexture_jax.contexts import zoo
from contexture_jax.contexts._base import CapabilityError, Context
from contexture_jax.contexts._graph import graph
from contexture_jax.contexts._joint import (
    DenseJoint,
    Labels,
    SparseJoint,
    conditional,
    joint,
    labels,
    markov,
    pairs,
)
from contexture_jax.contexts._neighbors import (
    Neighbors,
    ReversedNeighbors,
    knn,
    neighbors,
)
from contexture_jax.contexts._softmax import (
    Attention,
    Rbf,
    SoftmaxContext,
    attention,
    rbf,
)
from contexture_jax.contexts._teacher import Teacher, teacher

__all__ = [
    "Attention",
    "CapabilityError",
    "Context",
    "DenseJoint",
    "Labels",
    "Neighbors",
    "Rbf",
    "ReversedNeighbors",
    "SoftmaxContext",
    "SparseJoint",
    "Teacher",
    "attention",
    "conditional",
    "graph",
    "joint",
    "knn",
    "labels",
    "markov",
    "neighbors",
    "pairs",
    "rbf",
    "teacher",
    "zoo",
]
