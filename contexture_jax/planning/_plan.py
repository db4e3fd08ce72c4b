"""A plan: the program of a problem, compiled for a topology and read."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any, Literal

import jax

from contexture_jax.planning._estimate import (
    Estimate,
    Exchange,
    estimate,
    least_time,
    scaling,
    solve_width,
)
from contexture_jax.planning._hlo import collectives
from contexture_jax.planning._problem import Problem
from contexture_jax.planning._topology import Topology, make_mesh, parse_topology

__all__ = ["Largest", "plan", "plan_apart"]

Largest = Literal["rows", "rank", "none"]

_USED = 0.99  # of the memory, by what is not quite a line


def plan(
    problem: Problem,
    topology: Topology,
    *,
    largest: Largest = "rows",
    memory: float | None = None,
) -> dict[str, Any]:
    """Compile a problem for a topology, from shapes alone, and say what it takes.

    Bytes are those of the compiled program, of one chip. Flops and bytes moved of a
    pass are what the operator counts (`op.cost`), as XLA's own analysis counts the body
    of a loop once; a training step has no loop, and those are XLA's. Times are the
    least that the published peaks allow.

    Args:
        problem: what to solve or train.
        topology: where.
        largest: what to make as large as the memory allows, of otherwise the same
            problem: by a line through the bytes of this program and of one more, or
            two, compiled near the end.
        memory: bytes of a chip; None: what is published.

    Returns:
        What JSON holds: "topology", "chips", "problem", "program" and "per" ("pass" or
        "step"); "bytes" with "arguments", "results", "temporaries", "code" and "peak";
        "memory", "fits"; "width" of the block; "flops", "moved_bytes"; "collectives",
        a list of `Exchange`s as dicts; "seconds" by resource, "binds"; "largest" with
        "what", "size", "checked" (a size that was compiled) and its "peak"; and
        "scaling", as the function gives it. None is what is not known.

    Raises:
        ValueError: if the chip has no such dtype, or `memory` or `largest` is none.
        RuntimeError: if the compiler is not there, or refuses.

    Example:
        >>> import contexture_jax as cx
        >>> problem = cx.planning.Problem("joint", rows=64, columns=12, rank=2)
        >>> topology = cx.planning.parse_topology("cpu:1")
        >>> found = cx.planning.plan(problem, topology, largest="none")
        >>> found["fits"], found["bytes"]["arguments"] >= 4 * 64 * 12
        (True, True)
    """
    if largest not in ("rows", "rank", "none"):
        raise ValueError(f"largest must be rows, rank or none; got {largest!r}")
    if memory is not None and not memory > 0:
        raise ValueError(f"memory must be above 0; got {memory}")
    chip, k = topology.chip, topology.num_chips
    if chip.flops and problem.dtype not in chip.flops:
        msg = f"{topology.kind} has no {problem.dtype}; expected float32"
        raise ValueError(msg)
    if problem.is_step and problem.rows % k:
        msg = f"rows of a batch must be a multiple of {k} chips; got {problem.rows}"
        raise ValueError(msg)
    if problem.dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError("dtype float64 takes jax_enable_x64, which is off")
    mesh = make_mesh(topology)
    room = topology.memory if memory is None else float(memory)
    compiled = _compiled(problem, mesh, topology)
    sizes = _bytes(compiled, topology)
    found = _step(compiled, problem, topology) if problem.is_step else None
    one = found or _pass(compiled, problem, topology)
    width = None
    if not problem.is_step:
        width = solve_width(problem, problem.operator(mesh))
    grown = None
    if largest != "none":
        grown = _largest(problem, topology, mesh, largest, room, sizes)
    has_peaks = chip.bandwidth > 0
    return {
        "topology": topology.name,
        "chips": k,
        "problem": dataclasses.asdict(problem),
        "program": "step" if problem.is_step else "svd",
        "per": "step" if problem.is_step else "pass",
        "bytes": sizes,
        "memory": room,
        "fits": sizes["peak"] <= room,
        "width": width,
        "flops": one.flops,
        "moved_bytes": one.moved_bytes,
        "collectives": [exchange._asdict() for exchange in one.exchanges],
        "seconds": one.seconds if has_peaks else None,
        "binds": one.binds or None,
        "largest": grown,
        "scaling": scaling(problem, topology, found) if has_peaks else None,
    }


def _compiled(problem: Problem, mesh: Any, topology: Topology) -> Any:
    try:
        return problem.lower(mesh).compile()
    # What a compiler refuses, as a program beyond the memory of a TPU.
    except jax.errors.JaxRuntimeError as error:
        words = " ".join(str(error).split())[:200]
        msg = f"the program does not compile for {topology.name}: {words}"
        raise RuntimeError(msg) from error


def _bytes(compiled: Any, topology: Topology) -> dict[str, int]:
    """Bytes of a chip while the program runs."""
    found = compiled.memory_analysis()
    # The code lies on the device, but for that of a CPU.
    code = 0 if topology.kind == "cpu" else found.generated_code_size_in_bytes
    # What is overwritten in place is an argument and a result.
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    sizes = {
        "arguments": found.argument_size_in_bytes,
        "results": results,
        "temporaries": found.temp_size_in_bytes,
        "code": code,
    }
    return {**sizes, "peak": sum(sizes.values())}


def _exchanges(compiled: Any, k: int, *, in_pass: bool) -> list[Exchange] | None:
    """The collectives in the text of a program, those that are alike together.

    None where a compiler that is newer than JAX wrote what that cannot read.
    """
    found: dict[tuple[str, int, str], int] = {}
    try:
        text = compiled.as_text() or ""
    except jax.errors.JaxRuntimeError:
        return None
    for one in collectives(text):
        if one.in_pass != in_pass and in_pass:
            continue
        axis = f"x ({k})" if one.group in (0, k) else f"{one.group} of {k} chips"
        name = one.kind, one.bytes, axis
        found[name] = found.get(name, 0) + one.times
    return [Exchange(*name, times, "text") for name, times in found.items()]


def _step(compiled: Any, problem: Problem, topology: Topology) -> Estimate:
    """Of a training step, whose program has no loop: as XLA counts."""
    cost = compiled.cost_analysis() or {}
    if isinstance(cost, (list, tuple)):
        cost = cost[0]
    k = topology.num_chips
    exchanges = tuple(_exchanges(compiled, k, in_pass=False) or ())
    flops, moved = (float(cost.get(name, 0)) for name in ("flops", "bytes accessed"))
    return least_time(flops, moved, exchanges, topology.chip, problem.peak, num_chips=k)


def _pass(compiled: Any, problem: Problem, topology: Topology) -> Estimate:
    """Of a pass: as the operator counts, with collectives as the program has them."""
    k, counted = topology.num_chips, estimate(problem, topology)
    found, exchanges = _exchanges(compiled, k, in_pass=True), []
    if found is None:
        return counted
    for one in found:
        if one.kind in ("collective-permute", "all-to-all"):
            # The text of a TPU does not say how many hops, or rounds, a loop takes: the
            # operator does, in as many as it has of that size.
            hops = [e for e in counted.exchanges if e.kind == one.kind]
            alike = [e for e in hops if e.bytes == one.bytes] or hops[:1]
            times = max(one.times, sum(e.times for e in alike))
            one = one._replace(times=times)
        exchanges.append(one)
    return least_time(
        counted.flops,
        counted.moved_bytes,
        tuple(exchanges),
        topology.chip,
        problem.peak,
        num_chips=k,
    )


def _largest(
    problem: Problem,
    topology: Topology,
    mesh: Any,
    what: str,
    room: float,
    sizes: dict[str, int],
) -> dict[str, Any]:
    """The largest size that fits, by a line through programs, the last near the end."""
    k, first = topology.num_chips, getattr(problem, what)
    tried = [(first, sizes["peak"])]
    # All but the code grows with the size, at most: a first guess on the safe side.
    grows = max(sizes["peak"] - sizes["code"], 1)
    end = int(first * max(room - sizes["code"], 0.0) / grows)

    def sized(end: int) -> Problem:
        return problem.resized(what, min(max(end, 1), 2**31 - k), k)

    # Once, and again where much of what was taken to grow does not.
    while len(tried) < 3 and (len(tried) < 2 or tried[-1][1] < 0.8 * room):
        size = getattr(sized(end), what)
        if size == tried[-1][0]:
            break
        peak = _bytes(_compiled(sized(end), mesh, topology), topology)["peak"]
        tried.append((size, peak))
        (x, y), (size, peak) = tried[-2:]
        slope = (peak - y) / (size - x)
        end = int(size + (_USED * room - peak) / slope) if slope > 0 else size
    size, peak = tried[-1]
    best = getattr(sized(end), what) if len(tried) > 1 else size
    return {"what": what, "size": best, "checked": size, "peak": peak}


def plan_apart(problem: Problem, topology: Topology, **options: Any) -> dict[str, Any]:
    """`plan` in a process of its own: with devices of its own, and silent.

    Libraries that compile for devices that are not there look for them, and say so on
    stderr; a CPU is cut into virtual devices only before JAX is first used.

    Args:
        problem: as in `plan`.
        topology: as in `plan`.
        **options: of `plan`.

    Raises:
        ValueError: as `plan`.
        RuntimeError: as `plan`, or if the process was ended.
    """
    request = {
        "problem": dataclasses.asdict(problem),
        "topology": topology.name,
        "options": options,
    }
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        # Neither of them is here.
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }
    # Its devices are those that the request names.
    environment.pop("XLA_FLAGS", None)
    ran = subprocess.run(
        [sys.executable, "-m", "contexture_jax.planning"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    try:
        answer = json.loads(ran.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        last = (ran.stderr.strip().splitlines() or [""])[-1][:200]
        how = f"with status {ran.returncode}: {last}"
        raise RuntimeError(f"planning {topology.name} ended {how}") from None
    if "error" in answer:
        kind = ValueError if answer["kind"] == "ValueError" else RuntimeError
        raise kind(answer["error"])
    return answer["plan"]


def serve() -> None:
    """Answer one request of `plan_apart`, on the streams of this process."""
    request = json.load(sys.stdin)
    topology = parse_topology(request["topology"])
    if topology.kind == "cpu":
        jax.config.update("jax_num_cpu_devices", topology.num_chips)
    made = dict(request["problem"])
    jax.config.update("jax_enable_x64", made["dtype"] == "float64")
    try:
        problem = Problem(**{**made, "hidden": tuple(made["hidden"])})
        answer: Any = {"plan": plan(problem, topology, **request["options"])}
    except (ValueError, RuntimeError) as error:
        answer = {"error": str(error), "kind": type(error).__name__}
    print(json.dumps(answer))
