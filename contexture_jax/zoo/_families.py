"""One small instance of every family, for whatever wants to try them all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from contexture_jax.zoo._base import AnalyticContext
from contexture_jax.zoo._chains import convolve, reverse
from contexture_jax.zoo._circle import circle, circle_heat, circle_shift
from contexture_jax.zoo._combinations import (
    convex_combination,
    tensor_product,
)
from contexture_jax.zoo._commuting import compose
from contexture_jax.zoo._dirichlet import (
    beta_binomial,
    dirichlet_multinomial,
)
from contexture_jax.zoo._hidden import mixture
from contexture_jax.zoo._letters import (
    binary_symmetric,
    complete_graph,
    erasure,
    global_erasure,
    identity,
    label_noise,
    product_erasure,
    scarf,
)
from contexture_jax.zoo._logistic import logistic_map
from contexture_jax.zoo._masks import mask_law
from contexture_jax.zoo._partitions import deterministic_labels, nested, tree
from contexture_jax.zoo._polynomials import (
    gamma_poisson,
    gaussian,
    krawtchouk,
    multivariate_gaussian,
    poisson_thinning,
)
from contexture_jax.zoo._sphere import sphere_heat, von_mises_fisher, zonal
from contexture_jax.zoo._tables import (
    complete_bipartite,
    independent,
    staff_smoking,
    three_state_chain,
)
from contexture_jax.zoo._walks import (
    cyclic,
    hypercube_walk,
    lazy_ring,
    torus_walk,
)

__all__ = ["FAMILIES"]

# Unequal masses: what holds by symmetry alone would be found out.
_LAW = (0.1, 0.2, 0.3, 0.4)
_LAWS = ((0.3, 0.7), (0.2, 0.3, 0.5), (0.25, 0.75))
# Not symmetric: characters have phases, and right functions are shifted.
_STEPS = (0.4, 0.3, 0.0, 0.1, 0.0, 0.0, 0.2)
_BLOCKS = np.array([[i <= j < i + 2 for j in range(5)] for i in range(4)])
_PARTITIONS = ((0, 0, 0, 1, 1, 1), (0, 0, 1, 2, 2, 3))


# Smooth, and with no symmetry: sines and cosines both occur.
def _skewed(angles: np.ndarray) -> np.ndarray:
    return np.exp(2.0 * np.cos(angles - 0.5) + 0.5 * np.sin(2.0 * angles))


# Of degree 3: a zonal law of finite rank.
def _bump(heights: np.ndarray) -> np.ndarray:
    return 1.0 + heights**2 + 0.5 * heights**3


FAMILIES: dict[str, Callable[[], AnalyticContext]] = {
    "beta_binomial": lambda: beta_binomial(8, 1.5, 2.5),
    "binary_symmetric": lambda: binary_symmetric(5, 0.1),
    "circle": lambda: circle(_skewed),
    "circle_heat": lambda: circle_heat(0.1),
    "circle_shift": lambda: circle_shift(4.0),
    "complete_bipartite": lambda: complete_bipartite(3, 5),
    "complete_graph": lambda: complete_graph(7),
    "cyclic": lambda: cyclic(_STEPS),
    "deterministic_labels": lambda: deterministic_labels(_LAW, 3),
    "dirichlet_multinomial": lambda: dirichlet_multinomial(4, (0.5, 1.0, 2.0)),
    "erasure": lambda: erasure(4, 0.3),
    "gamma_poisson": lambda: gamma_poisson(2.5, 1.0),
    "gaussian": lambda: gaussian(0.6),
    "global_erasure": lambda: global_erasure(_LAW, 0.3),
    "hypercube_walk": lambda: hypercube_walk(5),
    "identity": lambda: identity(_LAW),
    "independent": lambda: independent(_LAW, (0.5, 0.2, 0.3)),
    "krawtchouk": lambda: krawtchouk(9, 0.8),
    "label_noise": lambda: label_noise(5, 0.3),
    "label_noise_to_another": lambda: label_noise(5, 0.9, to_another=True),
    "lazy_ring": lambda: lazy_ring(12, 0.2),
    "logistic_map": logistic_map,
    "mask_law": lambda: mask_law(_BLOCKS, (0.1, 0.4, 0.3, 0.2), flip=0.9),
    "mixture": lambda: mixture([gaussian(0.5), gaussian(-0.8)], (0.3, 0.7)),
    "multivariate_gaussian": lambda: multivariate_gaussian((0.3, -0.5), num_points=17),
    "nested": lambda: nested(
        (0.1, 0.2, 0.1, 0.2, 0.1, 0.3), _PARTITIONS, (0.2, 0.3, 0.5)
    ),
    "poisson_thinning": lambda: poisson_thinning(3.0, 0.4),
    "tensor_product": lambda: tensor_product(
        [cyclic(_STEPS), krawtchouk(4, 0.2), identity((0.4, 0.6))]
    ),
    "product_erasure": lambda: product_erasure(_LAWS, (0.2, 0.4, 0.7)),
    "reverse": lambda: reverse(gamma_poisson(2.5, 1.0)),
    "scarf": lambda: scarf(_LAWS, 0.3),
    "sphere_heat": lambda: sphere_heat(3, 0.2),
    "sphere_heat_in_five_dimensions": lambda: sphere_heat(5, 0.2),
    "staff_smoking": staff_smoking,
    "three_state_chain": three_state_chain,
    "torus_walk": lambda: torus_walk(5, 2),
    "tree": lambda: tree(2, (0.1, 0.2, 0.3, 0.15, 0.25)),
    "compose": lambda: compose(binary_symmetric(3, 0.1), erasure(3, 0.3)),
    "convolve": lambda: convolve(
        poisson_thinning(3.0, 0.7), poisson_thinning(3.0, 0.4)
    ),
    "convex_combination": lambda: convex_combination(
        [gaussian(0.5), gaussian(-0.8)], (0.3, 0.7)
    ),
    "von_mises_fisher": lambda: von_mises_fisher(3, 2.0),
    "von_mises_fisher_on_the_circle": lambda: von_mises_fisher(2, 3.0),
    "zonal": lambda: zonal(3, _bump),
}
"""Name → factory of a small context of that family.

Every family of theory.md §5 and every combination occurs. Tables have at most 300
rows and 600 columns; the few contexts without one say so in `capabilities`.
"""
