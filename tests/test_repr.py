"""What is printed of operators, contexts and results fits on a few lines."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax._core.checks import check_integer, check_key, check_number

MOST_LINES = 6


@pytest.fixture(scope="module")
def objects():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2)).astype(np.float32)
    context = cx.contexts.neighbors(rng.integers(0, 300, size=(300, 20)))
    op = cx.association_operator(context)
    half = np.array([0.5, 0.5], np.float32)
    s: Any = np.linspace(1, 0.5, 8, dtype=np.float32)
    block: Any = x @ x[:8].T
    result = cx.solvers.SVDResult(s, block, block)
    nothing: Any = None
    v, one = jnp.asarray(s), jnp.asarray(s[0])
    info = cx.solvers.SolveInfo(
        v, v, v, one, one, one, one, jnp.asarray(1), None, "exact", "so"
    )
    bounds = cx.solvers.Bounds(s, s[0], s, s)
    certificate = cx.solvers.Certificate(s, bounds, bounds, s, s[0], s[0], s[0])
    noise = cx.contexts.gaussian_noise(0.5)
    return {
        "neighbours": context,
        "pairs": cx.contexts.pairs(np.arange(300), np.arange(300)),
        "labels": cx.contexts.labels(np.arange(300) % 7),
        "chain": cx.contexts.compose(*[noise] * 9),
        "zoo": cx.zoo.circle_heat(0.3),
        "fixed degree": op,
        "adjoint": cx.operators.reverse(op),
        "stack": cx.operators.convex_combination([op] * 2, half),
        "product": cx.operators.compose(*[op, cx.operators.reverse(op)] * 5),
        "result": result,
        "info": info,
        "certificate": certificate,
        "usefulness": cx.evaluation.Usefulness(s[0], s[1], s),
        "state": cx.training.TrainState(
            jnp.zeros((), int), {f"w{i}": x for i in range(99)}, [x] * 9, (), None
        ),
        "fit": cx.training.FitResult(
            nothing,
            {f"metric {i}": x[0] for i in range(99)},
            cx.training.FitStatus.FINISHED,
        ),
        "shapes": jax.eval_shape(lambda: op),
        "keys": noise.__class__(jax.random.split(jax.random.key(0), 3)),
        "words": dataclasses.replace(info, reason="long " * 99),
    }


def test_everything_prints_in_a_few_lines(objects):
    for name, value in objects.items():
        lines = repr(value).splitlines()
        assert len(lines) <= MOST_LINES, name
        assert max(map(len, lines)) <= 88, name
        assert lines[0].startswith(type(value).__name__)
        assert str(value) == repr(value)


def test_what_is_printed_says_kind_shape_and_dtype(objects):
    op = objects["fixed degree"]
    assert repr(op).startswith(
        f"FixedDegreeOperator(shape=(300, 300), dtype={op.dtype}, indices=int32[20,"
    )
    assert "left=float32[300,8]" in repr(objects["result"])
    assert "status=max passes" in repr(objects["info"])
    values = np.asarray(objects["result"].singular_values)
    assert f"float32[8]({values[0]:.5g} … {values[-1]:.5g})" in repr(objects["result"])


def test_a_tracer_a_tree_and_a_deleted_array_print_too(objects):
    op = objects["fixed degree"]
    seen = []
    jax.make_jaxpr(lambda o: seen.append(repr(o)) or o.p_x)(op)
    assert f"norm2={op.dtype}[]" in seen[0]
    assert "norm2=None" in repr(jax.tree.map(lambda _: None, op))
    info = objects["info"]
    gone = jnp.ones(8, np.float32)
    gone.delete()
    assert "residuals=float32[8]," in repr(dataclasses.replace(info, residuals=gone))


def test_what_an_argument_is_instead_is_told_in_a_few_words(objects):
    wrong = {**objects, "both": (objects["result"], objects["info"])}
    calls = {
        "integer": lambda value: check_integer(value, "rank", low=1),
        "number": lambda value: check_number(value, "scale"),
        "key": check_key,
    }
    told = 0
    for value in wrong.values():
        for call in calls.values():
            with pytest.raises((TypeError, ValueError)) as caught:
                call(value)
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 250
            told += type(value).__name__ in str(caught.value)
    assert told > len(wrong) * len(calls) // 2
