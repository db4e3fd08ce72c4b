"""Programs compiled for chips that are not here, where their compilers are."""

import math

import jax
import pytest

import contexture_jax as cx
from contexture_jax.planning import Problem, parse_topology, plan_apart
from contexture_jax.planning._hlo import collectives
from contexture_jax.planning._topology import make_mesh

pytestmark = pytest.mark.slow

ROWS = 1024  # a chip
SIZES = {"joint": 256, "knn": 8, "rbf": 8, "mlp": 32}


@pytest.mark.parametrize(
    ("name", "compiler"),
    [
        ("v5e:2x2", "libtpu"),
        ("v5p:2x2x1", "libtpu"),
        ("h100:4", "jax_cuda12_plugin"),
    ],
)
def test_chips_are_planned_for_where_their_compiler_is(name, compiler) -> None:
    pytest.importorskip(compiler)
    problem = Problem("joint", rows=1024, columns=16, rank=2)
    found = plan_apart(problem, parse_topology(name), largest="none")
    assert found["bytes"]["arguments"] >= 256 * 16 * 4
    assert ("all-reduce", "x (4)") in {
        (c["kind"], c["axis"]) for c in found["collectives"]
    }
    assert found["binds"] in ("memory", "links")


@pytest.mark.parametrize("kind", ["joint", "rbf", "mlp"])
def test_a_pod_takes_no_more_of_a_chip_than_sixteen_chips(kind) -> None:
    """At as many rows a chip bytes, and all that chips tell each other, stay."""
    pytest.importorskip("libtpu")
    found = []
    for name in ("v5p:2x2x4", "v5p:8x8x16"):
        topology = parse_topology(name)
        problem = Problem(
            kind,
            rows=(64 if kind == "mlp" else ROWS) * topology.num_chips,
            columns=SIZES[kind],
            rank=16,
            hidden=(64,),
        )
        found.append(plan_apart(problem, topology, largest="none"))
    small, large = found
    for part in ("arguments", "results", "temporaries"):
        assert math.isclose(*(f["bytes"][part] for f in found), rel_tol=0.05)
    # Once a hop, of which there are as many as chips.
    told = [{(c["kind"], c["bytes"]) for c in f["collectives"]} for f in found]
    assert told[0] == told[1]
    assert {kind for kind, _ in told[0]} <= {"all-reduce", "collective-permute"}
    if kind == "rbf":
        # Every row meets every other.
        assert math.isclose(large["flops"], 64 * small["flops"], rel_tol=0.05)
    else:
        assert math.isclose(large["flops"], small["flops"], rel_tol=0.05)


def test_neighbors_take_no_more_of_a_chip_of_a_pod() -> None:
    """Of 16 chips blocks go round; each of 1,024 asks for the rows that it needs."""
    pytest.importorskip("libtpu")
    found = []
    for name in ("v5p:2x2x4", "v5p:8x8x16"):
        topology = parse_topology(name)
        problem = Problem("knn", 2 * ROWS * topology.num_chips, columns=8, rank=16)
        found.append(plan_apart(problem, topology, largest="none"))
    small, large = found
    assert large["bytes"]["temporaries"] < 1.05 * small["bytes"]["temporaries"]
    told = [{c["kind"] for c in f["collectives"]} for f in found]
    assert told == [{"all-reduce", "collective-permute"}, {"all-reduce", "all-to-all"}]


def test_a_certificate_takes_no_more_of_a_chip_of_a_pod(monkeypatch) -> None:
    pytest.importorskip("libtpu")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    key = jax.eval_shape(lambda: jax.random.key(0))
    found = []
    for name in ("v5p:2x2x4", "v5p:8x8x16"):
        topology = parse_topology(name)
        problem = Problem("joint", ROWS * topology.num_chips, columns=64, rank=4)
        op = problem.operator(make_mesh(topology))
        result, info = jax.eval_shape(
            lambda op, key: cx.svd(op, 4, key=key, method="randomized"), op, key
        )
        # Functions lie as the laws of their values do.
        functions = (
            jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=law.sharding)
            for x, law in zip(result[1:], (op.p_x, op.p_a), strict=True)
        )
        result = cx.SVDResult(result.singular_values, *functions)
        certify = jax.jit(lambda *args, key: cx.solvers.certify(*args, key=key))
        program = certify.lower(result, info, op, key=key).compile()
        memory, text = program.memory_analysis(), program.as_text() or ""
        assert memory is not None
        told = {(c.kind, c.bytes) for c in collectives(text)}
        assert {kind for kind, _ in told} == {"all-reduce"}
        sizes = memory.argument_size_in_bytes, memory.temp_size_in_bytes
        found.append((sizes, told, (program.cost_analysis() or {})["flops"]))
    (small, told, work), (large, as_told, as_much) = found
    assert told == as_told
    for one, other in zip((*small, work), (*large, as_much), strict=True):
        assert math.isclose(one, other, rel_tol=0.05)


def test_a_block_goes_on_while_it_is_used(monkeypatch) -> None:
    """As scheduled for a TPU: the loop over tiles is between both ends of a hop."""
    pytest.importorskip("libtpu")
    # It is not to look for the chips.
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    problem = Problem("rbf", rows=4 * ROWS, columns=8, rank=4)
    op = problem.operator(make_mesh(parse_topology("v5e:2x2")))
    lines = (op.lower(16).compile().as_text() or "").splitlines()
    assert "is_scheduled=true" in lines[0]
    (start,) = (i for i, x in enumerate(lines) if "collective-permute-start(" in x)
    (end,) = (i for i, x in enumerate(lines) if "collective-permute-done(" in x)
    assert any(" while(" in line for line in lines[start:end])
