"""Files of learned functions are what was saved, or refused in one line."""

import io
import json
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import contexture_jax as cx
from contexture_jax.benchmarking import peak_memory
from contexture_jax.learning import Learned, load
from tests.mutated_archives import archive_of, members_of, odd_json, rewritten
from tests.mutations import mutations

X = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
# What JAX takes to trace an encoder again.
MOST_BYTES = 20_000_000
MOST_SECONDS = 10.0
WORDS = (
    *(b"'<f4'", b"'|O'", b"'<U9'", b"(2,)", b"()", b"(1000000000, 9)", b"'shape'"),
    *(b"header.npy", b"mean.npy", b"left.npy", b"True", b"False", b"null", b"1e999"),
)


@pytest.fixture(
    scope="module", params=["svme", pytest.param("kise", marks=pytest.mark.slow)]
)
def saved(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bytes, Any]:
    """The bytes of a model, which holds an encoder or averages, and its functions."""
    learned = cx.learning.learn(
        cx.contexts.knn(X, 4),
        X,
        rank=2,
        loss=request.param,
        num_steps=2,
        batch_size=16,
        encoder=cx.learning.Encoder(hidden=(4,)),
        seed=0,
    )
    path = tmp_path_factory.mktemp("model") / "model.npz"
    learned.save(path)
    return path.read_bytes(), np.asarray(learned.transform(X[:4]))


def check(path: Path, content: bytes) -> Learned | None:
    """What a file holds, or None if it is refused; it may fail in no other way."""
    path.write_bytes(content)
    tracemalloc.start()
    start = time.perf_counter()
    try:
        return load(path)
    except ValueError:
        return None
    finally:
        seconds = time.perf_counter() - start
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MOST_BYTES + 4 * len(content)
        assert seconds < MOST_SECONDS


def odd_headers(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    rng = np.random.default_rng(seed)
    members = members_of(content)
    header = header_of(members)
    for _ in range(count):
        yield with_header(members, odd_json(header, rng))


def header_of(members: dict[str, bytes]) -> Any:
    return json.loads(np.load(io.BytesIO(members["header.npy"])).tobytes())


def with_header(members: dict[str, bytes], header: Any) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file = io.BytesIO()
    np.save(file, np.frombuffer(text, np.uint8))
    return archive_of({**members, "header.npy": file.getvalue()})


def fuzz(saved: tuple[bytes, Any], path: Path, count: int, seed: int) -> None:
    content, expected = saved
    found = check(path, content)
    assert found is not None
    np.testing.assert_array_equal(np.asarray(found.transform(X[:4])), expected)
    taken = []
    for damaged in mutations([content], count, seed, WORDS):
        found = check(path, damaged)
        taken.append(found is not None)
        # The archive has checksums: what is read is what was written.
        if found is not None and len(taken) % 10 == 0:
            np.testing.assert_array_equal(np.asarray(found.transform(X[:4])), expected)
    taken += [
        check(path, damaged) is not None
        for damaged in rewritten(content, count, seed, WORDS)
    ]
    taken += [
        check(path, damaged) is not None
        for damaged in odd_headers(content, count, seed)
    ]
    assert not all(taken)


def test_damaged_models_are_those_saved_or_refused(saved: Any, tmp_path: Path) -> None:
    fuzz(saved, tmp_path / "model.npz", 10, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_hundreds_of_damaged_models_are_those_saved_or_refused(
    saved: Any, tmp_path: Path, seed: int
) -> None:
    fuzz(saved, tmp_path / "model.npz", 200, seed)


def test_a_header_that_is_nested_without_end_is_refused(
    saved: Any, tmp_path: Path
) -> None:
    content = with_header(members_of(saved[0]), b"[" * 100_000)
    assert check(tmp_path / "model.npz", content) is None


@pytest.mark.parametrize("saved", ["svme"], indirect=True)
def test_a_header_of_a_large_encoder_takes_no_memory(
    saved: Any, tmp_path: Path
) -> None:
    members = members_of(saved[0])
    header = header_of(members)
    header["tower"]["hidden"] = [20_000, 20_000]
    content = with_header(members, header)
    peak, found = peak_memory(lambda: check(tmp_path / "m.npz", content))
    assert found is None
    # 1.6 GB of parameters are not made to find that the file has none of them.
    assert peak is None or peak < 200
