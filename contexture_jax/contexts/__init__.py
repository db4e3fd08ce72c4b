"""Contexts: joint laws P⁺(x, a) of an input and a context variable."""

from contexture_jax.contexts._attention import Attention, attention
from contexture_jax.contexts._augment import (
    BlockMask,
    CoordinateMask,
    Erasure,
    GaussianNoise,
    block_mask,
    coordinate_mask,
    erasure,
    gaussian_noise,
)
from contexture_jax.contexts._base import CapabilityError, Context, as_context
from contexture_jax.contexts._conditional import conditional
from contexture_jax.contexts._dense_joint import DenseJoint
from contexture_jax.contexts._density import (
    DensityCheck,
    all_log_densities,
    check_density,
    judge_density,
)
from contexture_jax.contexts._graph import graph
from contexture_jax.contexts._hidden import Mixture, MixtureOfJoins, mixture
from contexture_jax.contexts._images import (
    Crop,
    Cutout,
    Flip,
    crop,
    cutout,
    flip,
    shift,
)
from contexture_jax.contexts._joins import Joined, join
from contexture_jax.contexts._joint import drawable, joint
from contexture_jax.contexts._knn_of_blocks import knn_of_blocks
from contexture_jax.contexts._labels import Labels, labels
from contexture_jax.contexts._markov import markov
from contexture_jax.contexts._mixed import DualStep, MixedContext, Reversed
from contexture_jax.contexts._mixing import (
    Composed,
    compose,
    convolve,
    reverse,
)
from contexture_jax.contexts._mixtures import (
    ConvexCombination,
    Seen,
    convex_combination,
)
from contexture_jax.contexts._neighbors import (
    Neighbors,
    ReversedNeighbors,
    approximate_knn,
    knn,
    neighbors,
)
from contexture_jax.contexts._numbered import NumberedContext
from contexture_jax.contexts._on_rows import OnRows, Posterior, on_rows
from contexture_jax.contexts._paired import (
    SameClass,
    TimeLag,
    same_class,
    time_lag,
)
from contexture_jax.contexts._pairs import pairs
from contexture_jax.contexts._parts import parts_on_one_input, row_law
from contexture_jax.contexts._products import TensorProduct, tensor_product
from contexture_jax.contexts._rbf import Rbf, rbf
from contexture_jax.contexts._sampling import SamplingContext, row_keys
from contexture_jax.contexts._sequences import (
    MaskedTokens,
    NextToken,
    masked_tokens,
    next_token,
)
from contexture_jax.contexts._softmax import SoftmaxContext
from contexture_jax.contexts._sparse_joint import SparseJoint
from contexture_jax.contexts._tabular import (
    Corruption,
    Cutmix,
    Scarf,
    corruption,
    cutmix,
    scarf,
)
from contexture_jax.contexts._teacher import Teacher, teacher
from contexture_jax.contexts._tuples import TupleContext
from contexture_jax.kernels import nearest_neighbors

__all__ = [
    "Attention",
    "BlockMask",
    "CapabilityError",
    "Composed",
    "Context",
    "ConvexCombination",
    "CoordinateMask",
    "Corruption",
    "Crop",
    "Cutmix",
    "Cutout",
    "DenseJoint",
    "DensityCheck",
    "DualStep",
    "Erasure",
    "Flip",
    "GaussianNoise",
    "Joined",
    "Labels",
    "MaskedTokens",
    "MixedContext",
    "Mixture",
    "MixtureOfJoins",
    "Neighbors",
    "NextToken",
    "NumberedContext",
    "OnRows",
    "Posterior",
    "Rbf",
    "Reversed",
    "ReversedNeighbors",
    "SameClass",
    "SamplingContext",
    "Scarf",
    "Seen",
    "SoftmaxContext",
    "SparseJoint",
    "Teacher",
    "TensorProduct",
    "TimeLag",
    "TupleContext",
    "all_log_densities",
    "approximate_knn",
    "as_context",
    "attention",
    "block_mask",
    "check_density",
    "compose",
    "conditional",
    "convex_combination",
    "convolve",
    "coordinate_mask",
    "corruption",
    "crop",
    "cutmix",
    "cutout",
    "drawable",
    "erasure",
    "flip",
    "gaussian_noise",
    "graph",
    "join",
    "joint",
    "judge_density",
    "knn",
    "knn_of_blocks",
    "labels",
    "markov",
    "masked_tokens",
    "mixture",
    "nearest_neighbors",
    "neighbors",
    "next_token",
    "on_rows",
    "pairs",
    "parts_on_one_input",
    "rbf",
    "reverse",
    "row_keys",
    "row_law",
    "same_class",
    "scarf",
    "shift",
    "teacher",
    "tensor_product",
    "time_lag",
]
