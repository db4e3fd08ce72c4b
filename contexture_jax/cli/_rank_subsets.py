"""τ of all rows of a table of which `contexture rank` has drawn some."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from contexture_jax._core.archives import read_archive, write_archive
from contexture_jax.cli._rank_data import Beside, columns_of
from contexture_jax.cli.session import Advance, Interrupted, replacing
from contexture_jax.data import InputError, Table, quoted_path

if TYPE_CHECKING:
    from contexture_jax.cli._rank import RankOptions
    from contexture_jax.evaluation import Interval
    from contexture_jax.ranking import ContextSpec, NamedContext

__all__ = ["told_of_all"]

_PARTS = 7  # of a subset: itself, its halves and its quarters
_FEWEST = 16  # rows of a subset, so that a quarter has the three of a ranking


def told_of_all(
    options: RankOptions,
    table: Table,
    beside: Beside,
    specs: Sequence[ContextSpec | NamedContext],
    folder: Path,
    advance: Advance,
    is_told: Callable[[], int],
) -> dict[str, Interval]:
    """Intervals by the names of the contexts that words alone describe.

    Args:
        options: what was asked for.
        table: the rows that were drawn, of which the numbers of neighbours are.
        beside: with the features of all rows.
        specs: of the contexts of these rows.
        folder: where spectra of subsets are kept until the run is done.
        advance: told of each.
        is_told: the number of a signal to end, or 0.

    Raises:
        InputError: if the folder cannot be written, or holds what is damaged.
        Interrupted: if a signal came; what was done is kept.
    """
    import jax

    from contexture_jax import evaluation, ranking

    worded = [spec for spec in specs if isinstance(spec, ranking.ContextSpec)]
    x, d0 = beside.all_features, options.max_dim
    if x is None or not worded:
        return {}
    size = min(options.max_rows, max(_FEWEST, math.ceil(d0 * math.log(d0))))
    names, total, done = [spec.name for spec in worded], _PARTS * options.subsets, 0

    def spectrum_of(rows: np.ndarray) -> np.ndarray:
        nonlocal done
        # Before what takes long: as a signal comes, one part is finished.
        if number := is_told():
            raise Interrupted(number)
        path = folder / f"subset-{hashlib.sha256(rows.tobytes()).hexdigest()[:16]}.npz"
        found = _kept(path, names, d0)
        if found is None:
            found = ranking.spectra_of_rows(
                x,
                worded,
                rows,
                num_rows=len(table.rows),
                columns=columns_of(table),
                max_dim=d0,
                tol=options.tol,
                seed=options.seed,
            )
            with replacing(path) as partial:
                write_archive(partial, {"names": np.array(names), "spectra": found})
        done += 1
        advance(done, total, f"part {done} of {total}")
        return found

    told = evaluation.subset_usefulness(
        spectrum_of,
        len(x),
        key=jax.random.key(options.seed),
        max_dim=d0,
        subset_size=size,
        num_subsets=options.subsets,
    )
    return {
        name: jax.tree.map(lambda v, i=i: v[i], told) for i, name in enumerate(names)
    }


def _kept(path: Path, names: Sequence[str], max_dim: int) -> np.ndarray | None:
    """Spectra of these contexts that an earlier run has left; None: there are none."""
    if not path.exists():
        return None
    try:
        found = read_archive(path)
        names_there, spectra = found["names"].tolist(), found["spectra"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{quoted_path(path)} is damaged ({error}); expected it deleted, so that"
            " its rows are solved anew"
        ) from error
    is_same = names_there == list(names) and spectra.shape == (len(names), max_dim + 1)
    return spectra if is_same else None
