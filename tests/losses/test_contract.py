"""What every objective keeps: dtypes, finite values, and errors that say why."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from contexture_jax import losses
from contexture_jax._core.moments import batch_of
from tests.losses.registry import (
    OBJECTIVES,
    SELECTED,
    compiled,
    encode,
    make_data,
    make_parameters,
)
from tests.tolerances import tol

F = np.ones((4, 2))
G = np.ones((4, 3))


@pytest.mark.slow_cases("selected-zero", "selected-constant")
@pytest.mark.parametrize("what", ["zero", "constant", "equal columns"])
@pytest.mark.parametrize(
    "names",
    [SELECTED, pytest.param(tuple(OBJECTIVES), marks=pytest.mark.slow)],
    ids=["selected", "all"],
)
def test_degenerate_embeddings_give_finite_values_and_gradients(
    what: str, names: tuple[str, ...]
) -> None:
    parameters, data = make_parameters(), make_data()
    if what == "zero":
        parameters = jax.tree.map(np.zeros_like, parameters)
    elif what == "constant":
        data = data._replace(x=np.ones_like(data.x), a=np.ones_like(data.a))
    else:
        for name in ("phi", "psi"):
            parameters[name] = np.repeat(parameters[name][:, :1], 3, axis=1)
    values, gradients = jax.device_get(compiled(names)(parameters, data))
    bad = [
        name
        for name in names
        if not all(
            np.isfinite(leaf).all()
            for leaf in jax.tree.leaves((values[name], gradients[name]))
        )
    ]
    assert bad == []


@pytest.mark.slow_cases("float32")
@pytest.mark.parametrize("given", ["float32", "bfloat16", "float64"])
def test_dtype_of_the_loss_is_that_of_its_moments(given: str) -> None:
    dtype = jnp.dtype(given)
    expected = "float64" if given == "float64" else "float32"
    data = make_data()

    def all_losses(parameters: Any, data: Any) -> Any:
        return {
            name: objective(encode(parameters, data), None)
            for name, objective in OBJECTIVES.items()
        }

    cast = jax.tree.map(
        lambda v: v if v.dtype == np.int32 else jnp.asarray(v, dtype),
        (make_parameters(), data),
    )
    shapes = jax.eval_shape(all_losses, *cast)
    wrong = {
        n: s for n, s in shapes.items() if s.shape != () or str(s.dtype) != expected
    }
    assert wrong == {}


def test_half_precision_is_promoted_before_moments() -> None:
    rng = np.random.default_rng(0)
    f = jnp.asarray(rng.normal(size=(64, 2)) + 8, jnp.bfloat16)
    g = jnp.asarray(rng.normal(size=(64, 2)) + 8, jnp.bfloat16)
    wide = f.astype(jnp.float32), g.astype(jnp.float32)
    run = jax.jit(jax.value_and_grad(losses.lora_svd))
    (value, gradient), (exact, _) = run(f, g), run(*wide)
    assert float(value) == float(exact)
    assert gradient.dtype == jnp.bfloat16


@pytest.mark.slow_cases("svme")
@pytest.mark.parametrize("loss", [losses.lora_svd, losses.svme, losses.joint_nesting])
def test_a_common_mean_costs_no_digits(loss: Any) -> None:
    rng = np.random.default_rng(0)
    f = rng.normal(size=(256, 4)).astype(np.float32)
    g = (0.6 * f + 0.8 * rng.normal(size=f.shape)).astype(np.float32)
    moved = float(loss(f + np.float32(1000), g + np.float32(1000)))
    # Adding 1000 rounds each entry to 2⁻¹⁴.
    assert abs(moved - float(loss(f, g))) < tol(np.float32, size=16)


@pytest.mark.parametrize("scale", [1e30, 1e37, 1e-37, 1e-40])
def test_weights_may_have_any_scale(scale: float) -> None:
    rng = np.random.default_rng(0)
    f, g = rng.normal(size=(2, 64, 3)).astype(np.float32)
    plain = float(losses.spectral_contrastive(f, g))
    weights = np.full(64, scale, np.float32)
    weighted = float(losses.spectral_contrastive(f, g, weights=weights))
    assert abs(weighted - plain) < tol(np.float32)
    if scale > 1e-38:  # devices flush smaller numbers to 0
        traced = float(
            jax.jit(lambda w: losses.spectral_contrastive(f, g, weights=w))(weights)
        )
        assert abs(traced - plain) < tol(np.float32)


@pytest.mark.parametrize("constraint", ["whiten", "squared", "hinge"])
def test_nan_in_is_nan_out(constraint: str) -> None:
    """Trouble is never hidden: only degenerate numbers are made finite."""
    f = np.random.default_rng(0).normal(size=(6, 2))
    f[0, 0] = np.nan
    run = jax.jit(lambda f: losses.svme(f, f, constraint=constraint))
    assert np.isnan(float(run(f)))


ERRORS = {
    "shapes": (
        lambda: losses.svme(F, G),
        ValueError,
        r"same shape.*\(4, 2\).*\(4, 3\)",
    ),
    "rows": (
        lambda: losses.vamp(F, G[:3]),
        ValueError,
        r"same number of rows.*\(4, 2\).*\(3, 3\)",
    ),
    "one dimension": (
        lambda: losses.lora_svd(F[0], F[0]),
        ValueError,
        r"phi must have 2 dimension.*\(2,\)",
    ),
    "complex": (lambda: losses.svme(1j * F, F), TypeError, "real numbers; got dtype"),
    "empty": (lambda: losses.svme(F[:0], F[:0]), ValueError, "at least 1 row"),
    "constraint": (
        lambda: losses.svme(F, F, constraint="hard"),
        ValueError,
        "one of 'whiten', 'squared', 'hinge'; got 'hard'",
    ),
    "coefficient": (
        lambda: losses.svme(F, F, constraint=losses.SquaredPenalty(-1.0)),
        ValueError,
        "strength must be finite and not negative; got -1.0",
    ),
    "moments": (
        lambda: losses.svme(F, F, constraint="hinge", moments=losses.init_moments(2)),
        ValueError,
        "serve constraint='whiten' only",
    ),
    "width of moments": (
        lambda: losses.svme(F, F, moments=losses.init_moments(3)),
        ValueError,
        r"width 2.*\(3, 3\)",
    ),
    "kernel": (
        lambda: losses.kise(F, np.ones((4, 5))),
        ValueError,
        r"shape \(4, 4\); got \(4, 5\)",
    ),
    "odd": (
        lambda: losses.lora_svd(F[:3], F[:3], unbiased=True),
        ValueError,
        "even number of rows on each device; got 3",
    ),
    "one row": (
        lambda: losses.vicreg(F[:1], F[:1], unbiased=True),
        ValueError,
        "at least 2 rows; got 1",
    ),
    "weights": (
        lambda: losses.svme(F, F, weights=[1, -1, 1, 1]),
        ValueError,
        "weights must be finite and non-negative",
    ),
    "length of weights": (
        lambda: losses.svme(F, F, weights=[1, 1]),
        ValueError,
        "weights must have length 4; got 2",
    ),
    "mode weights": (
        lambda: losses.joint_nesting(F, F, mode_weights=[1.0]),
        ValueError,
        r"mode_weights must have shape \(2,\); got \(1,\)",
    ),
    "order of VAMP": (lambda: losses.vamp(F, F, r=3), ValueError, "1 or 2; got 3"),
    "coupling": (
        lambda: losses.vamp_e(F, G, np.ones(2)),
        ValueError,
        r"coupling must have shape \(2, 3\)",
    ),
    "singular values": (
        lambda: losses.ncp(F, F, np.ones(3)),
        ValueError,
        r"singular_values must have shape \(2,\); got \(3,\)",
    ),
    "shift": (
        lambda: losses.orbital_minimisation(F, F, shift=-1.0),
        ValueError,
        "shift must be finite and not negative",
    ),
    "nesting": (
        lambda: losses.orbital_minimisation(F, F, nesting="both"),
        ValueError,
        "None, 'joint' or 'sequential'; got 'both'",
    ),
    "order of a nesting": (
        lambda: losses.orbital_minimisation(F, F, nesting="joint", order=2),
        ValueError,
        "order = 1; got nesting='joint' and order=2",
    ),
    "mode weights without joint nesting": (
        lambda: losses.orbital_minimisation(F, F, mode_weights=[1.0, 1.0]),
        ValueError,
        "nesting='joint'; got nesting=None",
    ),
    "last mode weight": (
        lambda: losses.joint_nesting(F, F, mode_weights=[1.0, 0.0]),
        ValueError,
        "the last of mode_weights must be positive; got 0.0",
    ),
    "highest order": (
        lambda: losses.orbital_minimisation(F, F, order=40),
        ValueError,
        "order must be between 1 and 20; got 40",
    ),
    "infinite shift": (
        lambda: losses.orbital_minimisation(F, F, shift=np.inf),
        ValueError,
        "shift must be finite and not negative; got inf",
    ),
    "ridge": (
        lambda: losses.vamp(F, F, ridge=np.nan),
        ValueError,
        "ridge must be finite and not negative; got nan",
    ),
    "off_diagonal": (
        lambda: losses.barlow_twins(F, F, off_diagonal=-1.0),
        ValueError,
        "off_diagonal must be finite and not negative",
    ),
    "regularisation": (
        lambda: losses.ncp(F, F, np.ones(2), regularisation=-1.0),
        ValueError,
        "regularisation must be finite and not negative",
    ),
    "invariance": (
        lambda: losses.vicreg(F, F, invariance=-1.0),
        ValueError,
        "invariance must be finite and not negative",
    ),
    "epsilon": (
        lambda: losses.vicreg(F, F, epsilon=0.0),
        ValueError,
        "epsilon must be finite and positive",
    ),
    "class probabilities": (
        lambda: losses.class_balanced(
            F, np.zeros(4, int), 2, class_probabilities=[-0.1, 1.1]
        ),
        ValueError,
        "class_probabilities must be finite and non-negative",
    ),
    "negative probabilities as labels": (
        lambda: losses.cross_entropy(F, -np.ones((4, 2))),
        ValueError,
        "labels must be finite and non-negative",
    ),
    "decay": (
        lambda: losses.update_moments(losses.init_moments(2), F, decay=2.0),
        ValueError,
        r"decay must be in \[0, 1\); got 2.0",
    ),
    "temperature": (
        lambda: losses.info_nce(F, F, temperature=0.0),
        ValueError,
        "temperature must be positive; got 0.0",
    ),
    "labels": (
        lambda: losses.cross_entropy(F, np.array([0, 1, 2, 0])),
        ValueError,
        r"labels must be in 0\.\.1; got 2",
    ),
    "float labels": (
        lambda: losses.class_balanced(F, np.ones(4), 2),
        TypeError,
        "labels must be integers",
    ),
    "scaling": (
        lambda: losses.class_balanced(F, np.zeros(4, int), 2, scaling="both"),
        ValueError,
        "'target' or 'loss'; got 'both'",
    ),
    "target": (
        lambda: losses.squared_error(F, np.ones((3, 2))),
        ValueError,
        r"target must have shape \(4, k\); got \(3, 2\)",
    ),
    "head": (
        lambda: losses.squared_error(F, F, head=(np.ones((3, 2)), None)),
        ValueError,
        r"head\[0\] must have shape \(2, 2\); got \(3, 2\)",
    ),
    "mask": (
        lambda: losses.masked_reconstruction(F, F, G),
        ValueError,
        r"same shape.*\(4, 3\)",
    ),
    "mu": (
        lambda: losses.spectral_contrastive_published(F, F, mu=0.0),
        ValueError,
        "mu must be finite and positive",
    ),
    "alpha": (
        lambda: losses.neural_eigenmaps(F, F, alpha=-1.0),
        ValueError,
        "alpha must be finite and not negative",
    ),
    "average": (
        lambda: losses.vicreg(F, F, average="all"),
        ValueError,
        "'width' or 'pairs'; got 'all'",
    ),
    "no embeddings": (
        lambda: losses.update_moments(losses.init_moments(2)),
        ValueError,
        "at least 1 embedding",
    ),
    "width": (
        lambda: losses.update_moments(losses.init_moments(3), F),
        ValueError,
        r"width 3.*\(4, 2\)",
    ),
    "losses of rows": (
        lambda: losses.cvar(F, 0.5),
        ValueError,
        r"losses must have 1 dimension.*\(4, 2\)",
    ),
    "share": (
        lambda: losses.cvar(F[:, 0], 0.0),
        ValueError,
        r"alpha must be in \(0, 1\]; got 0.0",
    ),
    "trim": (
        lambda: losses.cvar(F[:, 0], 0.5, trim=1.0),
        ValueError,
        r"trim must be in \[0, 1\); got 1.0",
    ),
    "radius": (
        lambda: losses.chi_squared_dro(F[:, 0], -1.0),
        ValueError,
        "radius must be finite and not negative; got -1.0",
    ),
    "ratios": (
        lambda: losses.importance_weighted(F[:, 0], np.ones(3)),
        ValueError,
        r"ratios must have shape \(4,\), as losses; got \(3,\)",
    ),
    "groups": (
        lambda: losses.group_weighted(F[:, 0], np.arange(4), np.ones(3) / 3),
        ValueError,
        r"groups must be in 0\.\.2; got 3",
    ),
    "predictions": (
        lambda: losses.squared_errors(F, G),
        ValueError,
        r"the shape of phi, \(4, 2\); got \(4, 3\)",
    ),
    "no rows": (lambda: batch_of(jnp.ones((0, 2))), ValueError, "at least 1 row"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_error_says_what_was_expected_and_what_came(name: str) -> None:
    call, kind, match = ERRORS[name]
    with pytest.raises(kind, match=match):
        call()
