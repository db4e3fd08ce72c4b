"""From options and a table to a context: parameters, defaults, what exists."""

import numpy as np
import pytest

from contexture_jax.cli._arguments import Options
from contexture_jax.cli._contexts import build_context, load, plan_context, plan_rank
from tests.data.helpers import write
from tests.tolerances import tol

F32 = np.float32
TABLE = "a,b,colour,y\n" + "".join(
    f"{i * i},{i % 5},{'rgb'[i % 3]},{'uv'[i % 2]}\n" for i in range(12)
)


def planned(tmp_path, text=TABLE, **changes):
    options = Options(str(write(tmp_path, text)), **changes)
    table = load(options)
    return table, plan_context(options, table)


def test_few_rows_take_fewer_neighbours_with_a_note(tmp_path):
    _, recipe = planned(tmp_path)
    assert recipe.params == {"num_neighbors": 6}
    assert recipe.num_triples == 11
    assert recipe.notes == ["12 rows only: num_neighbors is 6, not 30"]


@pytest.mark.slow
def test_num_neighbors_may_be_all_rows(tmp_path):
    table, recipe = planned(tmp_path, num_neighbors=12)
    context = build_context(recipe, table, "float32")
    np.testing.assert_allclose(context.table(), 1 / 144, atol=tol(F32))


def test_progress_of_the_search_is_reported(tmp_path):
    table, recipe = planned(tmp_path, num_neighbors=3)
    seen = []
    build_context(recipe, table, "float32", lambda done, _: seen.append(done))
    assert seen[-1] == 12


@pytest.mark.parametrize(
    ("asked", "gamma"), [(None, 1.0), ("auto", 1 / 4), (0.25, 0.25)]
)
def test_gamma_is_resolved(tmp_path, asked, gamma):
    table, recipe = planned(tmp_path, context="rbf", gamma=asked)
    assert recipe.params == {"gamma": gamma}
    context = build_context(recipe, table, "float32")
    assert float(context.gamma) == gamma
    assert context.points.dtype == F32


def test_labels_are_the_classes_of_the_target(tmp_path):
    table, recipe = planned(tmp_path, context="labels", target="y")
    assert recipe.num_triples == 1
    context = build_context(recipe, table, "float32")
    np.testing.assert_array_equal(context.codes, np.arange(12) % 2)


def test_teacher_counts_independent_directions(tmp_path):
    # Two numbers, three colours that sum to 0, two values of y that are one another.
    table, recipe = planned(tmp_path, context="teacher")
    assert table.features.shape == (12, 7)
    assert recipe.num_triples == 5
    assert build_context(recipe, table, "float32").features.shape == (12, 5)


def test_a_joint_table_counts_rows_and_columns_with_weight(tmp_path):
    text = "a,b,c\n1,2,0\n3,4,0\n0,0,0\n5,1,0\n"
    table, recipe = planned(tmp_path, text, context="joint")
    assert recipe.num_triples == 1
    assert recipe.notes == [
        "1 column without any weight: functions are 0 there",
        "1 row without any weight: functions are 0 there",
    ]
    context = build_context(recipe, table, "float32")
    np.testing.assert_allclose(context.table(), table.features / 16, atol=tol(F32))


def test_a_lazy_walk_is_lazy(tmp_path):
    text = "v0,v1,v2\n0,1,1\n1,0,0\n1,0,0\n"
    table, recipe = planned(tmp_path, text, context="graph", lazy=True)
    expected = np.array([[2, 1, 1], [1, 1, 0], [1, 0, 1]]) / 8
    context = build_context(recipe, table, "float32")
    np.testing.assert_allclose(context.table(), expected, atol=tol(F32))


def test_rank_is_64_or_what_there_is(tmp_path):
    _, recipe = planned(tmp_path)
    assert plan_rank(None, recipe, 11) == 11
    assert plan_rank(None, recipe, 1000) == 64
    assert plan_rank(100, recipe, 1000) == 100
