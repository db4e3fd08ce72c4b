"""Rows of a file that processes read apart are features as those of the whole file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contexture_jax.data import (
    InputError,
    Share,
    Table,
    load_features,
    load_own_rows,
)


def parts(path: Path, count: int, multiple: int = 1) -> list[Table | None]:
    """What each process reads; what they tell each other, played in rounds."""
    told: list[dict[int, np.ndarray]] = []

    def share(index: int, at: list[int]) -> Share:
        # The first run of each stops where it would have to wait, and is begun anew.
        def meet(x: np.ndarray, how: Any) -> np.ndarray:
            at[0] += 1
            while len(told) < at[0]:
                told.append({})
            here = told[at[0] - 1]
            here.setdefault(index, x.copy())
            if len(here) < count:
                raise BlockingIOError
            return how(np.stack(list(here.values())), axis=0)

        return Share(
            index,
            count,
            multiple,
            lambda x: meet(x, np.sum),
            lambda x: meet(x, np.max),
        )

    found: list[Any] = ["waits"] * count
    while "waits" in [x for x in found if isinstance(x, str)]:
        for index in range(count):
            try:
                found[index] = load_own_rows(path, share(index, [0]))
            except BlockingIOError:
                found[index] = "waits"
    return found


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
def test_features_are_those_of_the_whole_file(tmp_path: Path, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    x = (1e3 * rng.normal(size=(24, 4)) + 7e3).astype(dtype)
    x[:, 1] = 3
    if dtype == np.float64:
        x[:, 2] = 1e200 + 1e190 * rng.normal(size=24)
    for laid_out in (np.ascontiguousarray(x), np.asfortranarray(x)):
        np.save(tmp_path / "x.npy", laid_out)
        whole = load_features(tmp_path / "x.npy")
        found = parts(tmp_path / "x.npy", 3, 2)
        tables = [table for table in found if table is not None]
        assert len(tables) == 3
        together = np.concatenate([table.features for table in tables])
        # To the bit: what some processes began goes on in one.
        np.testing.assert_array_equal(together, whole.features)
        for table in tables:
            assert table[2:5] == whole[2:5]
            np.testing.assert_array_equal(table.rows, whole.rows)
            assert table.notes == whole.notes
            assert (table.title, table.num_constant) == (whole.title, 1)


def test_what_is_read_whole_is_left(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((9, 2)))
    (tmp_path / "x.csv").write_text("a,b\n1,2\n2,3\n")
    np.save(tmp_path / "z.npy", np.ones((8, 2), complex))
    for name, count in (("x.npy", 2), ("x.csv", 2), ("z.npy", 2), ("none.npy", 2)):
        assert parts(tmp_path / name, count) == [None, None]


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, r"holds nan at \[5, 1\]"), (1.0, "constant columns")],
)
def test_what_is_no_table_is_refused(
    tmp_path: Path, value: float, message: str
) -> None:
    x = np.ones((8, 2))
    x[5, 1] = value
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(InputError, match=message):
        parts(tmp_path / "x.npy", 2)
