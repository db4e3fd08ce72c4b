"""Files of solves are the state that was saved, or refused in one line."""

import io
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax.solvers import load_state, save_state, svd
from tests.mutated_archives import archive_of, members_of, odd_json, rewritten, text_of
from tests.mutations import mutations

MOST_BYTES = 4_000_000
MOST_SECONDS = 2.0
WORDS = (
    *(b"'<f4'", b"'<f8'", b"'|O'", b"'<U9'", b"(2,)", b"()", b"(1000000000, 9)", b"}"),
    *(b"'descr'", b"'shape'", b"False", b"True", b"header.npy", b"stage.npy", b"(-1,)"),
)


@pytest.fixture(scope="module")
def operator() -> Any:
    rng = np.random.default_rng(0)
    table = rng.random((30, 24)).astype(np.float32)
    return cx.association_operator(cx.contexts.joint(table))


@pytest.fixture(scope="module", params=["randomized", "krylov"])
def saved(request: Any, operator: Any, tmp_path_factory: Any) -> tuple[bytes, Any]:
    """The bytes of a state after a pass, and the state."""
    path = tmp_path_factory.mktemp("state") / "state.npz"
    states: list[Any] = []

    def keep(progress: Any) -> bool:
        states.append(progress.state)
        return True

    svd(operator, 3, key=jax.random.key(0), method=request.param, on_step=keep)
    save_state(path, states[0])
    return path.read_bytes(), states[0]


def check(path: Path, content: bytes) -> Any:
    """The state in a file, or None if that is refused; it may fail in no other way."""
    path.write_bytes(content)
    tracemalloc.start()
    start = time.perf_counter()
    try:
        return load_state(path)
    except ValueError:
        return None
    finally:
        seconds = time.perf_counter() - start
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MOST_BYTES + 4 * len(content)
        assert seconds < MOST_SECONDS


def assert_same(found: Any, expected: Any) -> None:
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def fuzz(saved: tuple[bytes, Any], path: Path, count: int, seed: int) -> None:
    content, state = saved
    assert_same(check(path, content), state)
    refused = 0
    # The archive has checksums: what is read is what was written.
    for damaged in mutations([content], count, seed, WORDS):
        found = check(path, damaged)
        refused += found is None
        if found is not None:
            assert_same(found, state)
    # Without them all the same no traceback.
    for damaged in rewritten(content, count, seed, WORDS):
        refused += check(path, damaged) is None
    for damaged in odd_headers(content, count, seed):
        refused += check(path, damaged) is None
    assert refused > count


def odd_headers(content: bytes, count: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    members = members_of(content)
    header = json.loads(str(np.load(io.BytesIO(members["header.npy"]))))
    for _ in range(count):
        file = io.BytesIO()
        np.save(file, text_of(odd_json(header, rng)))
        yield archive_of({**members, "header.npy": file.getvalue()})


@pytest.mark.slow_cases("randomized")
def test_damaged_states_are_those_saved_or_refused(saved: Any, tmp_path: Path) -> None:
    fuzz(saved, tmp_path / "state.npz", 60, seed=0)


@pytest.mark.slow
def test_hundreds_of_damaged_states_are_those_saved_or_refused(
    saved: Any, tmp_path: Path
) -> None:
    fuzz(saved, tmp_path / "state.npz", 500, seed=1)


def deep_header(content: bytes) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array("[" * 100_000))
    return archive_of({**members_of(content), "header.npy": file.getvalue()})


def test_a_header_that_is_nested_without_end_is_refused(
    saved: Any, tmp_path: Path
) -> None:
    assert check(tmp_path / "state.npz", deep_header(saved[0])) is None
