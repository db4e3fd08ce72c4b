"""Array kernels that know no probability: pure functions with a derivative rule.

Each is a form for XLA, in tiles that fit in cache: products with exp(L) whose exponents
are made as they are needed, sparse products in slices of equal width, and the nearest
neighbours, exact or most of them. What a law is, and what a product with it means, is
said above. Products with exp(L) have a fused twin for a TPU (`_fused`, which also
chooses).
"""

from contexture_jax.kernels._exponents import (
    FLOOR,
    MASKED,
    SAFE,
    Form,
    exponents,
    lay_out,
    masked,
    padded,
    shifted,
)
from contexture_jax.kernels._fused import (
    IMPLEMENTATIONS,
    Implementation,
    check_implementation,
)
from contexture_jax.kernels._near import near_matmat
from contexture_jax.kernels._slots import (
    Bucket,
    Slots,
    add_rows,
    make_slots,
    paired_matmat,
    slots_at_a_time,
    slots_cost,
    slots_matmat,
    sum_slots,
)
from contexture_jax.kernels._softmax import (
    exp_matmul,
    logsumexp_rows,
    normalise,
    tile_shape,
)
from contexture_jax.kernels.neighbors import (
    Approximate,
    approximate_neighbors,
    exact_distances,
    in_balls,
    nearest_neighbors,
    nearest_over_mesh,
)

__all__ = [
    "FLOOR",
    "IMPLEMENTATIONS",
    "MASKED",
    "SAFE",
    "Approximate",
    "Bucket",
    "Form",
    "Implementation",
    "Slots",
    "add_rows",
    "approximate_neighbors",
    "check_implementation",
    "exact_distances",
    "exp_matmul",
    "exponents",
    "in_balls",
    "lay_out",
    "logsumexp_rows",
    "make_slots",
    "masked",
    "near_matmat",
    "nearest_neighbors",
    "nearest_over_mesh",
    "normalise",
    "padded",
    "paired_matmat",
    "shifted",
    "slots_at_a_time",
    "slots_cost",
    "slots_matmat",
    "sum_slots",
    "tile_shape",
]
