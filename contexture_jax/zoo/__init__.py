"""Contexts whose whole spectrum is known in closed form (theory.md §5).

Ground truth for solvers, estimators and losses. Each function makes a context with
`spectrum(k)`, `clusters(k)` (distinct values with multiplicities) and `total_energy()`;
where it can, with `table()` on `inputs()` × `context_values()`, of which
`num_resolved()` leading singular values are exact, with `left_functions(k)` and
`right_functions(k)` there, and with `sample` and `log_density`. `capabilities` lists
what a context has. `FAMILIES` holds a small instance of each.
"""

from contexture_jax.zoo._base import AnalyticContext, Clusters
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
from contexture_jax.zoo._families import FAMILIES
from contexture_jax.zoo._hidden import mixture
from contexture_jax.zoo._joins import join
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

__all__ = [
    "FAMILIES",
    "AnalyticContext",
    "Clusters",
    "beta_binomial",
    "binary_symmetric",
    "circle",
    "circle_heat",
    "circle_shift",
    "complete_bipartite",
    "complete_graph",
    "compose",
    "convex_combination",
    "convolve",
    "cyclic",
    "deterministic_labels",
    "dirichlet_multinomial",
    "erasure",
    "gamma_poisson",
    "gaussian",
    "global_erasure",
    "hypercube_walk",
    "identity",
    "independent",
    "join",
    "krawtchouk",
    "label_noise",
    "lazy_ring",
    "logistic_map",
    "mask_law",
    "mixture",
    "multivariate_gaussian",
    "nested",
    "poisson_thinning",
    "product_erasure",
    "reverse",
    "scarf",
    "sphere_heat",
    "staff_smoking",
    "tensor_product",
    "three_state_chain",
    "torus_walk",
    "tree",
    "von_mises_fisher",
    "zonal",
]
