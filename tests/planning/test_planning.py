"""Plans: names of topologies, texts of programs, counts, and compiled programs."""

import json
import math
from typing import Any

import jax
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax.cli import main
from contexture_jax.planning import (
    Problem,
    estimate,
    parse_topology,
    plan,
    scaling,
)
from contexture_jax.planning._hlo import collectives
from contexture_jax.planning._topology import make_mesh
from tests import hlo

# Lines as CPU, TPU and GPU compilers write them, three ways to name a group.
TEXT = """\
HloModule jit__compiled

%ring (p: f32[8,4]) -> f32[8,4] {
  %hop = (f32[8,4]{0,1:T(8,128)S(1)}, f32[8,4]{0,1}, u32[]{:S(2)}, u32[]) \
collective-permute-start(%p), source_target_pairs={{0,3},{1,0},{2,1},{3,2}}, \
metadata={op_name="jit(_compiled)/while/body/cond/while/body/ppermute"}
  ROOT %done = f32[8,4]{0,1} collective-permute-done(%hop)
}

%pass (p: f32[8,4]) -> f32[8,4] {
  %sum = (f32[4]{0}, bf16[4,4]{1,0}) all-reduce(%a, %b), \
replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}, \
metadata={op_name="jit(_compiled)/while/body/dot_general"}
  ROOT %loop = f32[8,4] while(%p), condition=%c, body=%ring, \
backend_config={"known_trip_count":{"n":"3"}}
}

ENTRY %main (p: f32[8,4]) -> f32[8,4] {
  %whole = f64[32]{0} all-gather(%p), replica_groups=[1,4]<=[4], \
metadata={op_name="jit(_compiled)/out"}
  %signs = pred[16] all-reduce(%s), replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %out = f32[8,4] while(%p), condition=%c, body=%pass
}
"""


@pytest.mark.parametrize(
    ("name", "chips", "axes"),
    [("v5e:16x16", 256, 2), ("v5p:8x8x16", 1024, 3), ("h100:8", 8, 1), ("cpu:3", 3, 1)],
)
def test_topologies_are_read(name: str, chips: int, axes: int) -> None:
    topology = parse_topology(name)
    assert (topology.num_chips, len(topology.grid)) == (chips, axes)
    assert topology.memory > 1e8


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v5e", "a colon and a grid"),
        ("v9:2x2", "a topology is a chip"),
        ("v5e:16", "grids of 2 axes, as 4x4"),
        ("v5p:4x4", "grids of 3 axes"),
        ("v5e:0x4", "a colon and a grid"),
        ("v5e:32x32", "at most 256 chips joined"),
        ("h100:16", "at most 8 chips"),
    ],
)
def test_topologies_that_are_none_are_refused(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_topology(name)


def test_collectives_are_read_with_sizes_groups_and_times() -> None:
    found = [tuple(one) for one in collectives(TEXT)]
    assert found == [
        ("collective-permute", 4 * 32, 4, 3, True),
        ("all-reduce", 4 * 4 + 2 * 16, 2, 1, True),
        ("all-gather", 8 * 32, 4, 1, False),
        ("all-reduce", 16, 2, 1, False),
    ]


def test_loops_within_loops_multiply() -> None:
    inner = 'backend_config={"known_trip_count":{"n":"3"}}'
    outer = "while(%p), condition=%c, body=%pass"
    text = TEXT.replace(outer, f"{outer}, {inner.replace('3', '5')}")
    times = {one.kind: one.times for one in collectives(text) if one.in_pass}
    assert times == {"collective-permute": 15, "all-reduce": 5}


def test_problems_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="rank must be at most 11, of such sizes"):
        Problem("joint", rows=64, columns=12, rank=12)
    with pytest.raises(ValueError, match="kind must be one of"):
        Problem("tree")
    with pytest.raises(ValueError, match="loss must be one of"):
        Problem("mlp", loss="graph")
    assert Problem("mlp", loss="svme").peak == "layers"
    with pytest.raises(ValueError, match="v5e has no float64; expected float32"):
        plan(Problem(dtype="float64"), parse_topology("v5e:2x2"))
    with pytest.raises(ValueError, match="multiple of 4 chips; got 10"):
        plan(Problem("mlp", rows=10), parse_topology("cpu:4"))


def test_a_pass_is_what_the_operator_counts_at_the_published_peaks() -> None:
    problem = Problem("joint", rows=4096, columns=256, rank=16)
    found = estimate(problem, parse_topology("v5e:2x2"))
    width = cx.solvers.block_width(problem.operator(make_mesh4()), 16)
    # Two products with a quarter of the table, and factorisations of both blocks.
    products, rows = 2 * 2 * 1024 * 256 * width, 1024 + 256
    assert math.isclose(found.flops, products + 4 * rows * width**2, rel_tol=0.01)
    assert math.isclose(found.seconds["arithmetic"], found.flops / (197e12 / 6))
    assert math.isclose(found.seconds["memory"], found.moved_bytes / 819e9)
    sums = [256 * width * 4, 4 * width**2]
    assert [one.bytes for one in found.exchanges] == sums
    links = sum(2 * size * 3 / 4 / 200e9 for size in sums)
    assert math.isclose(found.seconds["links"], links)
    assert (found.binds, found.least) == ("memory", found.seconds["memory"])


def test_scaling_goes_from_one_chip_to_many() -> None:
    problem = Problem("joint", rows=2**20, columns=64, rank=8)
    found = scaling(problem, parse_topology("v5e:4x4"))
    assert [one["chips"] for one in found["weak"]] == [2**i for i in range(11)]
    weak, strong = ([one["seconds"] for one in found[k]] for k in ("weak", "strong"))
    assert weak[4] == strong[4]
    assert np.ptp(weak) < 0.05 * weak[0]
    assert strong[0] > 14 * strong[4]


def make_mesh4() -> Any:
    return make_mesh(parse_topology("cpu:4"))


def held(problem: Problem, devices: int) -> int:
    """Bytes of the arguments of a chip, by the cuts of shapes; the key aside."""
    op = problem.operator(make_mesh(parse_topology(f"cpu:{devices}")))
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(op)
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["joint", "mlp"])
def test_a_chip_takes_as_much_of_more_chips(kind: str, monkeypatch) -> None:
    """At as many rows a chip: arguments as counted, all else as on fewer chips."""
    found, texts = {}, []

    def seen(text: str) -> Any:
        texts.append(text)
        return collectives(text)

    monkeypatch.setattr("contexture_jax.planning._plan.collectives", seen)
    for chips in (4, 8):
        problem = Problem(kind, rows=64 * chips, columns=24, rank=6, hidden=(16,))
        found[chips] = plan(problem, parse_topology(f"cpu:{chips}"), largest="none")
        sizes = found[chips]["bytes"]
        if kind == "joint":
            assert sizes["arguments"] - held(problem, chips) in range(8, 17)
            assert sizes["results"] >= 4 * (64 + 24) * 6
            # Beside an oracle that reads the same text another way.
            text = texts[-1]
            looped = hlo.collectives(text) - hlo.collectives(text, loops=False)
            told = {(c["kind"], c["bytes"]) for c in found[chips]["collectives"]}
            assert told == set(looped)
            assert ("all-reduce", 4 * 24 * found[chips]["width"]) in told
    small, large = (found[chips]["bytes"] for chips in (4, 8))
    assert small["arguments"] == large["arguments"]
    assert abs(small["peak"] - large["peak"]) <= 0.05 * small["peak"]
    assert {c["axis"] for c in found[8]["collectives"]} == {"x (8)"}
    if kind == "mlp":
        assert found[4]["flops"] == pytest.approx(found[8]["flops"], rel=0.05)


@pytest.mark.slow
def test_the_largest_problem_fits_and_a_larger_one_does_not() -> None:
    topology, memory = parse_topology("cpu:2"), 2e6
    problem = Problem("joint", rows=256, columns=16, rank=2)
    found = plan(problem, topology, memory=memory)["largest"]
    assert found["what"] == "rows"
    assert 256 < found["checked"] <= found["size"]
    larger = Problem("joint", rows=found["size"], columns=16, rank=2)
    told = plan(larger, topology, largest="none", memory=memory)
    assert 0.96 * memory < told["bytes"]["peak"] <= memory


@pytest.mark.slow
def test_the_command_plans_in_a_process_of_its_own(tmp_path, capsys) -> None:
    file = tmp_path / "plan.json"
    words = ["plan", "cpu:9", "--context", "joint", "--rows", "256", "--columns", "16"]
    words += ["--rank", "2", "--largest", "none", "--json", str(file)]
    assert main(words) == 0
    (found,) = json.loads(file.read_text())
    assert (found["chips"], found["fits"], found["scaling"]) == (9, True, None)
    printed = capsys.readouterr().out
    assert "all-reduce" in printed
    assert "on x (9)" in printed
    # No peaks, no lines of what follows from them.
    assert not {"least", "binds"} & {line.split(" ")[0] for line in printed.split("\n")}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["v5e"], "a topology is a chip"),
        (["cpu:2", "--rank", "9", "--rows", "9"], "rank must be at most 8"),
        (["cpu:2", "--rows", "9" * 21], "must take at most 2⁶³ bytes"),
        (["cpu:2", "--out", "here"], "no published peaks"),
        (["cpu:2", "--json", "no/such/file"], "is no file in a directory that is"),
        (["cpu:2", "--encoder", "mlp", "--context", "knn"], "not allowed with"),
        (["cpu:2", "--memory", "0"], "above 0"),
    ],
)
def test_bad_input_is_one_line(words, told, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "--rows", "4096", *words]) == 2
    captured = capsys.readouterr()
    assert (captured.out, len(captured.err.splitlines())) == ("", 1)
    assert told in captured.err
    assert not list(tmp_path.iterdir())


def test_a_compiler_that_is_absent_is_named(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(RuntimeError, match=r"libtpu.*pip install.*tpu-aot"):
        make_mesh(parse_topology("v5e:2x2"))
    with pytest.raises(RuntimeError, match=r"jax_cuda12_plugin.*pip install.*gpu-aot"):
        make_mesh(parse_topology("h100:8"))


def test_a_text_that_cannot_be_read_leaves_what_is_counted(monkeypatch) -> None:
    def refuse(_: Any) -> str:
        raise jax.errors.JaxRuntimeError("INTERNAL: written by a newer compiler")

    problem, topology = Problem("joint", rows=64, columns=8, rank=2), "cpu:4"
    monkeypatch.setattr(jax.stages.Compiled, "as_text", refuse)
    found = plan(problem, parse_topology(topology), largest="none")
    counted = estimate(problem, parse_topology(topology)).exchanges
    assert found["collectives"] == [one._asdict() for one in counted]


def test_scaling_is_drawn_where_there_are_times(tmp_path) -> None:
    curves = {"v5e:2x2": {"weak": [(1, 1e-3), (2, 2e-3)], "strong": [(1, 0.0)]}}
    ax = cx.plotting.plot_scaling(curves, title="a table")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [1e-3, 2e-3])
    assert np.size(ax.lines[1].get_ydata()) == 0
    assert cx.plotting.save(ax, tmp_path / "scaling.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="must hold seconds above 0"):
        cx.plotting.plot_scaling({"cpu:2": {"weak": []}})
