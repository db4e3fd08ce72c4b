"""Operators made of others over devices that do not divide their rows."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import contexture_jax as cx
from tests import hlo
from tests.operators.test_sharded import DTYPE, blocks, make_mesh
from tests.tolerances import tol


@functools.cache
def mixed(kind: str, mesh: Any = None) -> Any:
    """Of 101 rows, which 8 devices do not divide; chains and mixtures of parts."""
    n = 101
    of, rng = cx.contexts, np.random.default_rng(8)
    lists = [rng.integers(0, n, (n, 3)) for _ in range(2)]
    lists[0][0, 0] = lists[1][0, 0] = n - 1  # as many values
    knn, other = (of.neighbors(each, np.ones((n, 3), DTYPE)) for each in lists)
    labels = rng.integers(0, 5, n)
    # The law of a class by class, whose rows are as often as the classes.
    table = np.bincount(labels)[:, None] * rng.dirichlet(np.ones(5), 5)
    made = {
        "convex": lambda: of.convex_combination(
            [knn, of.labels(labels), of.same_class(labels), other], [0.1, 0.2, 0.3, 0.4]
        ),
        "mixture": lambda: of.mixture([knn, other], [0.3, 0.7]),
        "same class": lambda: of.same_class(labels),
        "reweighted": lambda: knn,
        "chain": lambda: of.compose(of.labels(labels), of.joint(table)),
        "next token": lambda: of.next_token(rng.integers(0, 9, n + 1), 1),
    }[kind]()
    op = cx.association_operator(made, mesh=mesh)
    law = rng.random(n) + 0.1
    return cx.operators.reweight(op, law) if kind == "reweighted" else op


@pytest.mark.slow_cases("mixture", "same class", "chain")
@pytest.mark.parametrize(
    "kind", ["convex", "mixture", "same class", "reweighted", "chain", "next token"]
)
def test_nothing_is_gathered_where_the_devices_do_not_divide_the_rows(kind):
    one, many = mixed(kind), mixed(kind, make_mesh(8))
    even = many.padded()
    assert even.padded() is even
    assert even.shape[0] == 104
    assert even.shape[1] % 8 == 0 or even.shape[1] < 13  # whole on each device
    f, g = blocks(one)
    for adjoint, block, wanted in (
        (False, g, one.matmat(g)),
        (True, f, one.rmatmat(f)),
    ):
        law = even.p_x if adjoint else even.p_a
        # What lies in rows of padding is nobody's.
        rows = jnp.pad(block, ((0, len(law) - len(block)), (0, 0)), constant_values=7)
        program = many.lower(block.shape[1], adjoint=adjoint).compile()
        got = program(even, jax.device_put(rows, law.sharding))
        np.testing.assert_allclose(
            got[: len(wanted)], wanted, atol=tol(DTYPE, factor=3)
        )
        assert not np.asarray(got)[len(wanted) :].any()
        told = hlo.collectives(program.as_text())
        whole = 101 * block.shape[1] * block.dtype.itemsize
        assert not [
            size for kind, size in told if kind == "all-gather" and 2 * size > whole
        ]
        assert len(got) < 13 or got.sharding.spec == PartitionSpec("x")


def test_operators_on_two_meshes_are_refused():
    knn = mixed("next token")
    with pytest.raises(ValueError, match=r"one mesh, or over none; got 2 dev.* and 8"):
        cx.operators.convex_combination(
            [mixed("same class", make_mesh(k)) for k in (8, 2)]
        )
    assert cx.operators.convex_combination([knn, mixed("next token", make_mesh(2))])
