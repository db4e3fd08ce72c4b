"""The expectation operator of a context, in storages to choose from."""

from contexture_jax.operators._adjoint import AdjointOperator, reverse
from contexture_jax.operators._base import AssociationOperator, Cost, check_operator
from contexture_jax.operators._build import association_operator
from contexture_jax.operators._composed import (
    ComposedOperator,
    ConvexCombinationOperator,
    MixtureOperator,
    compose,
    convex_combination,
    convolve,
    mixture,
)
from contexture_jax.operators._dense import DenseOperator, dense_operator
from contexture_jax.operators._drawn import DrawnOperator
from contexture_jax.operators._expectation import (
    conditional_expectation,
    monte_carlo_expectation,
)
from contexture_jax.operators._fixed_degree import (
    FixedDegreeOperator,
    fixed_degree_operator,
)
from contexture_jax.operators._kernel import KernelOperator, kernel_operator
from contexture_jax.operators._low_rank import LowRankOperator, low_rank_operator
from contexture_jax.operators._mixed import ReweightedOperator, join, reweight
from contexture_jax.operators._monte_carlo import (
    MonteCarloOperator,
    ShardedMonteCarloOperator,
    check_monte_carlo,
    monte_carlo_kernel,
    monte_carlo_operator,
)
from contexture_jax.operators._near import NearProducts, near_products
from contexture_jax.operators._products import (
    TensorProductOperator,
    tensor_product,
)
from contexture_jax.operators._sampled import SampledLaw, sampled
from contexture_jax.operators._shapes import operator_shapes
from contexture_jax.operators._sparse import SparseOperator, sparse_operator
from contexture_jax.operators._symmetrised import (
    Roots,
    marginal_roots,
    symmetrised_matrix,
    symmetrised_products,
    to_functions,
    to_vectors,
)
from contexture_jax.operators.sharded._common import (
    Collective,
    ShardedOperator,
    mesh_of,
)
from contexture_jax.operators.sharded._dense import (
    ShardedDenseOperator,
    ShardedLowRankOperator,
)
from contexture_jax.operators.sharded._kernel import ShardedKernelOperator
from contexture_jax.operators.sharded._slots import ShardedSparseOperator
from contexture_jax.operators.streamed import (
    ArrayShards,
    BlockSource,
    StreamedKernelOperator,
    StreamedOperator,
    is_streamed,
    streamed_operator,
    streamed_rbf,
)

__all__ = [
    "AdjointOperator",
    "ArrayShards",
    "AssociationOperator",
    "BlockSource",
    "Collective",
    "ComposedOperator",
    "ConvexCombinationOperator",
    "Cost",
    "DenseOperator",
    "DrawnOperator",
    "FixedDegreeOperator",
    "KernelOperator",
    "LowRankOperator",
    "MixtureOperator",
    "MonteCarloOperator",
    "NearProducts",
    "ReweightedOperator",
    "Roots",
    "SampledLaw",
    "ShardedDenseOperator",
    "ShardedKernelOperator",
    "ShardedLowRankOperator",
    "ShardedMonteCarloOperator",
    "ShardedOperator",
    "ShardedSparseOperator",
    "SparseOperator",
    "StreamedKernelOperator",
    "StreamedOperator",
    "TensorProductOperator",
    "association_operator",
    "check_monte_carlo",
    "check_operator",
    "compose",
    "conditional_expectation",
    "convex_combination",
    "convolve",
    "dense_operator",
    "fixed_degree_operator",
    "is_streamed",
    "join",
    "kernel_operator",
    "low_rank_operator",
    "marginal_roots",
    "mesh_of",
    "mixture",
    "monte_carlo_expectation",
    "monte_carlo_kernel",
    "monte_carlo_operator",
    "near_products",
    "operator_shapes",
    "reverse",
    "reweight",
    "sampled",
    "sparse_operator",
    "streamed_operator",
    "streamed_rbf",
    "symmetrised_matrix",
    "symmetrised_products",
    "tensor_product",
    "to_functions",
    "to_vectors",
]
