"""How often do intervals for τ of all rows, made of a few of them, hold it?

`evaluation.subset_usefulness` with its own number of subsets and rows, on tables whose
τ is computed from all rows too, by dense eigenvalues in float64: RBF contexts, k-NN
contexts and their means over three random masks, from those that do not tell rows apart
to those in which most rows are alone. *Told* is in how many draws the interval did not
abstain, *held* in how many of these it held τ.

    python benchmarks/tau_of_subsets.py --json FILE
"""

import functools
import math
import time
from typing import Any, NamedTuple

import jax
import numpy as np

import contexture_jax as cx
from _common import Report, make_parser, optional, parse, untimed

GAMMAS = (0.01, 0.1, 0.3, 1.0, 3.0)  # over the median squared distance
SHARES = (0.5, 0.35, 0.25, 0.12, 0.06)  # of all rows, as neighbours
MASKED = ((0.1, "rbf"), (1.0, "rbf"), (0.5, "knn"), (0.25, "knn"))
KEPT = 0.8  # of the columns under a mask
SMOKE = {"draws": 2, "rows": 120, "max_dims": [8]}


class Kind(NamedTuple):
    """A context of any rows: γ, or the share of the rows that are neighbours."""

    name: str
    setting: float
    masked: bool

    @property
    def words(self) -> str:
        """For a table."""
        what = "γ" if self.name == "rbf" else "K / n"
        return f"{self.name}{', masked' * self.masked}, {what} = {self.setting:g}"


KINDS = (
    *(Kind("rbf", gamma, False) for gamma in GAMMAS),
    *(Kind("knn", share, False) for share in SHARES),
    *(Kind(name, setting, True) for setting, name in MASKED),
)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--draws", type=int, default=8, help="of all subsets")
    parser.add_argument("--rows", type=int, default=1000, help="of a table, at most")
    parser.add_argument("--max-dims", type=int, nargs="+", default=[8, 16, 32, 64])
    args = parse(parser, SMOKE)
    jax.config.update("jax_enable_x64", True)
    report = Report("tau_of_subsets", args)
    told, held = np.zeros((2, len(KINDS)), int)
    of_tables = []
    for name, x in tables(args.seed).items():
        rows = np.random.default_rng(args.seed).permutation(len(x))[: args.rows]
        for max_dim in args.max_dims:
            # Subsets of all rows have no error.
            if max_dim * math.log(max_dim) >= len(rows):
                continue
            start = time.process_time()
            found = covered(x[rows], max_dim, args.draws)
            told, held = told + found[0], held + found[1]
            seconds = time.process_time() - start
            what = f"{name}, d0 = {max_dim}"
            of_tables.append(line(what, *(v.sum() for v in found), seconds=seconds))
    rows = [line(kind.words, *v) for kind, *v in zip(KINDS, told, held, strict=True)]
    draws = args.draws * len(of_tables)
    report.add_case("by context, of all tables", rows, draws=draws)
    report.add_case(
        "by table, of all contexts", of_tables, draws=args.draws * len(rows)
    )
    share = 1 - float(held.sum() / max(told.sum(), 1))
    report.add_goal("intervals that do not hold τ, of those told", share, 0.1)
    report.write()


def tables(seed: int) -> dict[str, np.ndarray]:
    """Columns of variance 1."""
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {
        "three clusters": np.concatenate(
            [rng.normal(c, 0.7, size=(300, 2)) for c in (-1, 0.5, 2)]
        ),
        "eight uniform columns": rng.random((1000, 8)),
        "three normal columns": rng.normal(size=(1000, 3)),
    }
    if optional("sklearn.datasets") is not None:
        from sklearn import datasets

        found |= {
            "swiss roll": datasets.make_swiss_roll(1000, random_state=seed)[0],
            "six clusters": datasets.make_blobs(
                800, n_features=4, centers=6, random_state=seed
            )[0],
            "wine": datasets.load_wine(return_X_y=True)[0],
            "breast cancer": datasets.load_breast_cancer(return_X_y=True)[0],
            "digits": datasets.load_digits(return_X_y=True)[0],
        }
    return {name: standardised(np.asarray(x)) for name, x in found.items()}


def standardised(x: np.ndarray) -> np.ndarray:
    """A column of one value is 0."""
    return (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-9)


def covered(x: np.ndarray, max_dim: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """How many intervals were told, and held τ, of each context."""
    distances = squared(x)
    unit = float(np.median(distances[np.triu_indices(len(x), 1)]))
    masks = np.random.default_rng(0).random((3, x.shape[1])) < KEPT
    spectra = functools.partial(spectra_of, x, unit, masks, max_dim)
    tau = functools.partial(cx.evaluation.usefulness, beta=1.0, max_dim=max_dim)
    truth = np.array(
        [float(tau(s, complete=True).tau) for s in spectra(np.arange(len(x)))]
    )
    told, held = np.zeros((2, len(KINDS)), int)
    for draw in range(draws):
        found = cx.evaluation.subset_usefulness(
            spectra, len(x), key=jax.random.key(draw), max_dim=max_dim
        )
        low, high = np.asarray(found.lower), np.asarray(found.upper)
        is_told = np.isfinite(high)
        told += is_told
        held += is_told & (low <= truth) & (truth <= high)
    return told, held


def spectra_of(
    x: np.ndarray, unit: float, masks: np.ndarray, max_dim: int, rows: np.ndarray
) -> np.ndarray:
    """The leading singular values of all contexts on some rows, (contexts, d0 + 1)."""
    part = x[rows]
    plain, seen = squared(part), [squared(part * mask) for mask in masks]
    found = np.zeros((len(KINDS), max_dim + 1))
    for values, kind in zip(found, KINDS, strict=True):
        law = np.mean(
            [given(d, kind, unit) for d in (seen if kind.masked else [plain])], 0
        )
        p = law.mean(axis=0)
        root = np.sqrt(p / len(p))
        walk = np.divide(law / len(p), root, out=np.zeros_like(law), where=root > 0)
        energies = np.linalg.eigvalsh(walk @ walk.T - 1 / len(p))[::-1]
        energies = np.clip(energies[: len(values)][: len(p) - 1], 0, 1)
        # What rounding leaves of 0.
        values[: len(energies)] = np.sqrt(np.where(energies > 1e-10, energies, 0))
    return found


def given(distances: np.ndarray, kind: Kind, unit: float) -> np.ndarray:
    """P(a | x) on the rows themselves."""
    if kind.name == "rbf":
        weights = np.exp(-kind.setting / unit * distances)
        return weights / weights.sum(axis=1, keepdims=True)
    n = len(distances)
    count = max(1, round(kind.setting * n))
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :count]
    law = np.zeros((n, n))
    np.put_along_axis(law, nearest, 1 / count, axis=1)
    return law


def squared(x: np.ndarray) -> np.ndarray:
    squares = (x**2).sum(axis=1)
    return np.maximum(squares[:, None] + squares[None, :] - 2 * x @ x.T, 0)


def line(name: str, told: int, held: int, seconds: float = 0.0) -> dict[str, Any]:
    return untimed(name, {"told": int(told), "held": int(held)}, seconds=seconds)


if __name__ == "__main__":
    main()
