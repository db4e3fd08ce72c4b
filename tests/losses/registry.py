"""Every objective once, as a function of one set of embeddings."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax import losses

ROWS, WIDTH, CLASSES = 16, 3, 4


class Data(NamedTuple):
    """Inputs of a batch, each with the rows in front."""

    x: Any
    a: Any
    kernel: Any  # (rows here, all rows)
    labels: Any
    weights: Any


class Embeddings(NamedTuple):
    """What an objective may look at."""

    phi: Any
    psi: Any
    sigma: Any
    head: Any
    data: Data


def make_data(num_rows: int = ROWS, dtype: Any = np.float64) -> Data:
    rng = np.random.default_rng(11)
    x = rng.normal(size=(num_rows, 4)).astype(dtype)
    square = rng.normal(size=(num_rows, num_rows)).astype(dtype)
    return Data(
        x,
        (x + 0.5 * rng.normal(size=x.shape)).astype(dtype),
        square @ square.T / num_rows,
        (np.arange(num_rows) % CLASSES).astype(np.int32),
        rng.uniform(0.5, 2, size=num_rows).astype(dtype),
    )


def make_parameters(dtype: Any = np.float64) -> dict[str, Any]:
    rng = np.random.default_rng(12)
    shapes = {
        "phi": (4, WIDTH),
        "psi": (4, WIDTH),
        "sigma": (WIDTH,),
        "W": (WIDTH, CLASSES),
        "b": (CLASSES,),
    }
    return {
        name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()
    }


def encode(parameters: dict[str, Any], data: Data) -> Embeddings:
    return Embeddings(
        jnp.tanh(data.x @ parameters["phi"]),
        jnp.tanh(data.a @ parameters["psi"]),
        parameters["sigma"],
        (parameters["W"], parameters["b"]),
        data,
    )


def _pair(loss: Callable[..., Any], *, weighted: bool = False, **options: Any) -> Any:
    def of(e: Embeddings, axis_name: Any) -> Any:
        weights = e.data.weights if weighted else None
        return loss(e.phi, e.psi, weights=weights, axis_name=axis_name, **options)

    return of


def _kise(e: Embeddings, axis_name: Any, **options: Any) -> Any:
    return losses.kise(e.phi, e.data.kernel, axis_name=axis_name, **options)


def _two_parts(e: Embeddings) -> Any:
    """Two draws, each of two contexts."""
    return (e.phi, e.psi), (e.psi + e.phi[:, ::-1], e.psi[:, ::-1])


def _running(e: Embeddings, axis_name: Any) -> Any:
    objective = losses.with_running_moments(losses.svme, decay=0.7)
    past = losses.RunningMoments(
        jnp.zeros(e.phi.shape[1], e.phi.dtype),
        jnp.eye(e.phi.shape[1], dtype=e.phi.dtype) / 2,
        jnp.full((), 0.5, e.phi.dtype),
    )
    return objective((e.phi, e.psi), past, axis_name=axis_name)[0]


def _class_balanced(e: Embeddings, axis_name: Any, **options: Any) -> Any:
    return losses.class_balanced(
        e.phi, e.data.labels, CLASSES, axis_name=axis_name, **options
    )


def _of_rows(
    reduction: Callable[..., Any], *, weighted: bool = True, **options: Any
) -> Any:
    def of(e: Embeddings, axis_name: Any) -> Any:
        rows = losses.cross_entropies(e.phi, e.data.labels, head=e.head)
        weights = e.data.weights if weighted else None
        return reduction(rows, weights=weights, axis_name=axis_name, **options)

    return of


def _groups(e: Embeddings) -> Any:
    """The last of three has no row."""
    return e.data.labels // 2


def _with_groups(e: Embeddings, axis_name: Any) -> Any:
    objective, q = losses.with_group_weights(losses.squared_errors, 3, rate=0.5)
    rows = (e.phi, e.data.x[:, :WIDTH], _groups(e))
    return objective(rows, q, axis_name=axis_name)[0]


HINGE = losses.HingePenalty(3.0, 0.3)

OBJECTIVES: dict[str, Callable[[Embeddings, Any], Any]] = {
    "svme": _pair(losses.svme),
    "svme weighted": _pair(losses.svme, weighted=True),
    "svme squared": _pair(losses.svme, constraint="squared"),
    "svme hinge": _pair(losses.svme, constraint=HINGE),
    "svme solved": _pair(losses.svme, solved=True),
    "svme solved weighted": _pair(losses.svme, weighted=True, solved=True),
    "svme_views": lambda e, axis: losses.svme_views(
        e.phi, e.psi, e.psi[:, ::-1] + e.phi, weights=e.data.weights, axis_name=axis
    ),
    "svme running": _running,
    "kise": _kise,
    "kise unbiased": partial(_kise, unbiased=True),
    "kise weighted": lambda e, axis: _kise(e, axis, weights=e.data.weights),
    "kise recursion": lambda e, axis: _kise(e, axis, kernels=[e.data.kernel]),
    "kise mixed": lambda e, axis: (
        losses.kise_mixed(_two_parts(e), [0.3, 0.7], axis_name=axis).loss
    ),
    "svme mixed": lambda e, axis: (
        losses.svme_mixed(e.phi, _two_parts(e), [0.3, 0.7], axis_name=axis).loss
    ),
    "kise_pairs": _pair(losses.kise_pairs),
    "spectral_contrastive": _pair(losses.spectral_contrastive),
    "spectral_contrastive unbiased": _pair(losses.spectral_contrastive, unbiased=True),
    "published": _pair(losses.spectral_contrastive_published, mu=1.0),
    "published weighted": _pair(
        losses.spectral_contrastive_published, weighted=True, centre=True
    ),
    "non_contrastive": _pair(losses.non_contrastive),
    "lora_svd": _pair(losses.lora_svd),
    "lora_svd unbiased": _pair(losses.lora_svd, unbiased=True, weighted=True),
    "lora_evd": _pair(losses.lora_evd),
    "lora_kernel": lambda e, axis: losses.lora_kernel(
        e.phi, e.data.kernel, unbiased=True, weights=e.data.weights, axis_name=axis
    ),
    "joint_nesting": _pair(losses.joint_nesting),
    "sequential_nesting": _pair(losses.sequential_nesting),
    "neural_ef": _pair(losses.neural_ef),
    "neural_eigenmaps": _pair(losses.neural_eigenmaps),
    "vicreg": _pair(losses.vicreg, unbiased=True),
    "barlow_twins": _pair(losses.barlow_twins),
    "vamp 1": _pair(losses.vamp, r=1),
    "vamp 2": _pair(losses.vamp),
    "vamp_e": lambda e, axis: losses.vamp_e(e.phi, e.psi, e.sigma, axis_name=axis),
    "ncp": lambda e, axis: losses.ncp(
        e.phi, e.psi, e.sigma, unbiased=True, axis_name=axis
    ),
    "orbital 1": _pair(losses.orbital_minimisation),
    "orbital 2": _pair(losses.orbital_minimisation, order=2, shift=0.1),
    "orbital joint": _pair(losses.orbital_minimisation, nesting="joint"),
    "orbital sequential": _pair(losses.orbital_minimisation, nesting="sequential"),
    "info_nce": _pair(losses.info_nce),
    "clip": _pair(losses.clip, weighted=True),
    "simclr": _pair(losses.simclr),
    "squared_error": lambda e, axis: losses.squared_error(
        e.phi, e.data.a, axis_name=axis
    ),
    "squared_error head": lambda e, axis: losses.squared_error(
        e.phi, e.data.x, head=e.head, axis_name=axis
    ),
    "class_balanced": _class_balanced,
    "class_balanced printed": partial(_class_balanced, scaling="loss"),
    "cross_entropy": lambda e, axis: losses.cross_entropy(
        e.phi, e.data.labels, head=e.head, axis_name=axis
    ),
    "reconstruction": lambda e, axis: losses.reconstruction(
        e.psi, e.data.x, axis_name=axis
    ),
    "masked_reconstruction": lambda e, axis: losses.masked_reconstruction(
        jnp.matmul(e.psi, e.head[0], precision="highest"),
        e.data.x,
        e.data.x > 0,
        axis_name=axis,
    ),
    "graph": _pair(losses.graph, lazy=True),
    "cvar": _of_rows(losses.cvar, alpha=0.3, weighted=False),
    "cvar trimmed": _of_rows(losses.cvar, alpha=0.3, trim=0.1),
    "chi_squared_dro": _of_rows(losses.chi_squared_dro, radius=1.0, weighted=False),
    "chi_squared_dro trimmed": _of_rows(losses.chi_squared_dro, radius=1.0, trim=0.1),
    "importance_weighted": lambda e, axis: losses.importance_weighted(
        losses.squared_errors(e.phi, e.data.x, head=(e.head[0], None)),
        e.data.weights,
        clip=1.5,
        axis_name=axis,
    ),
    "group_weighted": lambda e, axis: losses.group_weighted(
        losses.squared_errors(e.phi, e.data.x[:, :WIDTH]),
        _groups(e),
        [0.2, 0.5, 0.3],
        axis_name=axis,
    ),
    "group_dro": _with_groups,
    "context_use": lambda e, axis: losses.context_use(
        jnp.stack([e.phi, e.phi + e.psi / 8], axis=1),
        least=0.9,
        weights=e.data.weights,
        axis_name=axis,
    ),
    "context_entropy": lambda e, axis: losses.context_entropy(
        jax.nn.softmax(e.phi), weights=e.data.weights, axis_name=axis
    ),
}

# Some of each way to reduce: moments, gathered rows, halves, stopped gradients,
# factorisations, quotients, weights, state, thresholds. Slow tests go through all.
SELECTED = (
    "svme weighted",
    "svme running",
    "svme_views",
    "kise unbiased",
    "lora_svd unbiased",
    "sequential_nesting",
    "neural_ef",
    "barlow_twins",
    "vamp 2",
    "clip",
    "simclr",
    "class_balanced printed",
    "chi_squared_dro trimmed",
    "group_dro",
)


def values_and_gradients(
    parameters: dict[str, Any],
    data: Data,
    axis_name: Any = None,
    names: tuple[str, ...] = tuple(OBJECTIVES),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Objectives and their gradients in the parameters, averaged over devices.

    One program: compiling is what costs.
    """
    values, gradients = {}, {}
    for name in names:

        def loss(p: dict[str, Any], objective: Any = OBJECTIVES[name]) -> Any:
            return objective(encode(p, data), axis_name)

        values[name], gradient = jax.value_and_grad(loss)(parameters)
        if axis_name is not None:
            gradient = jax.lax.pmean(gradient, axis_name)
        gradients[name] = gradient
    return values, gradients


@cache
def compiled(names: tuple[str, ...]) -> Callable[..., Any]:
    """Objectives on one device, compiled once for all tests."""
    return jax.jit(partial(values_and_gradients, names=names))
