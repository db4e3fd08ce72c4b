"""How criteria without labels order contexts, beside the error of a probe.

For each table the contexts of the published family (RBF and k-NN, and both under
masks), each with its whole spectrum. Every criterion is a score, lower for better, by
`contexture_jax.evaluation`; the error is that of a ridge probe of the exact functions
on rows left out, at the d of τ ("error at d of τ") and at the d of validation
("validated"). A criterion may abstain: then the context is not among its own. Pearson
and distance correlation are over those that it orders, with their number beside.

    python benchmarks/criteria.py --data ../data/a.csv wine --settings 35 --json FILE
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import contexture_jax as cx
from _common import Report, make_parser, parse
from contexture_jax.ranking import RidgeProbe, published_family
from contexture_jax.ranking._judged import functions_of, solved
from contexture_jax.ranking._laws import groups, laws

E = cx.evaluation
BUILT_IN = ("wine", "breast_cancer", "digits")
TARGET = "target"
FEWEST = 8  # contexts that a correlation is of
SMOKE = {"data": ["wine"], "settings": 3, "masks": 2, "rows": 60, "splits": 1}


def tau(beta: float, max_dim: int) -> Callable[[np.ndarray], float]:
    return lambda s: float(E.usefulness(s, beta, max_dim, complete=True).tau)


def energy(share: float) -> Callable[[np.ndarray], float]:
    return lambda s: float(E.energy_dimension(s, share))


def tail(dim: int) -> Callable[[np.ndarray], float]:
    return lambda s: float(E.tail_shares(s)[min(dim, len(s)) - 1])


def gap(s: np.ndarray) -> float:
    return -float(E.spectral_gaps(s, complete=True).gaps.max())


def worst_case(epsilon: float, dim: int) -> Callable[[np.ndarray], float]:
    """The worst-case error of d functions; NaN where no target is that compatible."""

    def score(s: np.ndarray) -> float:
        if s[0] < 1 - epsilon:
            return np.nan
        return float(E.worst_case_curve(s, epsilon, complete=True)[dim - 1])

    return score


def between(s: np.ndarray) -> float:
    """τ, but for contexts of which it cannot tell."""
    if E.verdict(s, complete=True).association != "moderate":
        return np.nan
    return tau(1.0, 512)(s)


# A score of a whole spectrum: lower for better, NaN to abstain.
CRITERIA: dict[str, Callable[[np.ndarray], float]] = {
    "tau": tau(1.0, 512),
    "tau, not where it abstains": between,
    "tau, beta 1/4": tau(0.25, 512),
    "tau, beta 4": tau(4.0, 512),
    "tau, d0 = 32": tau(1.0, 32),
    "tau, d0 = 128": tau(1.0, 128),
    "d of 90 % of the energy": energy(0.9),
    "d of 50 % of the energy": energy(0.5),
    "tail beyond 16": tail(16),
    "tail beyond 64": tail(64),
    "largest gap": gap,
    "worst case, eps 0.2, d = 16": worst_case(0.2, 16),
    "decay rate": lambda s: float(E.decay_rate(s)),
    "log chi squared": lambda s: float(np.log(E.chi_squared(s))),
    "effective rank": lambda s: float(E.effective_rank(s)),
}


def read(data: str, num_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, Any]:
    """Features, columns and target of some rows of a table."""
    table = cx.data.load_features(data, target=TARGET)
    if table.target is None:
        raise SystemExit(f"{data} must have a target")
    # As the tables of the published experiment: classes, or numbers.
    y = table.target.values
    y = y.astype(int) if table.target.class_names else y.astype(float)
    rows = np.random.default_rng(seed).permutation(len(y))[:num_rows]
    # Masks leave out columns of the table, with all of their features.
    widths = [len(encoding.feature_names) for encoding in table.encodings]
    columns = np.repeat(np.arange(len(widths)), widths)
    return np.asarray(table.features, np.float64)[rows], columns, y[rows]


def judge(x: np.ndarray, columns: np.ndarray, y: Any, args: Any) -> tuple[Any, ...]:
    """Spectra of the family, and the errors of its contexts."""
    probe = RidgeProbe(y, num_splits=args.splits, seed=args.seed)
    specs = published_family(x, args.settings, num_masks=args.masks)
    spectra, errors, validated = [], [], []
    for group in groups(specs, len(x), 2**29):
        for gathered in laws(group, x, columns, args.seed):
            found = solved(gathered, len(x) - 1, tol=0.01, seed=args.seed)
            s = np.clip(found.values, 0.0, 1.0)
            if not s[0] > 0:
                continue
            best = int(E.usefulness(s, complete=True).best_dim) or 1
            told = probe.errors(functions_of(found), best)
            spectra.append(s)
            errors.append(told.error)
            validated.append(told.validated_error)
    return spectra, np.array(errors), np.array(validated)


def correlated(scores: np.ndarray, errors: np.ndarray) -> dict[str, float | None]:
    """Pearson and distance correlation over the contexts that have a score."""
    told = np.isfinite(scores)
    one, two = scores[told], errors[told]
    if told.sum() < FEWEST or np.ptp(one) == 0 or np.ptp(two) == 0:
        return {"pearson": None, "distance": None}
    return {
        "pearson": round(float(E.pearson_correlation(one, two)), 3),
        "distance": round(float(E.distance_correlation(one, two)), 3),
    }


def table(title: str, rows: list[dict[str, Any]]) -> str:
    """What was found, to read."""
    lines = [f"{title:32} {'contexts':>8}  {'at d of tau':>14}  {'validated':>14}"]
    for row in rows:
        name, count, *found = row.values()
        words = ["-" if value is None else f"{value:+.3f}" for value in found]
        pairs = [f"{words[i]:>7}{words[i + 1]:>7}" for i in (0, 2)]
        lines.append(f"{name:32} {count:8}  {pairs[0]}  {pairs[1]}")
    return "\n".join(lines)


def arguments() -> argparse.ArgumentParser:
    parser = make_parser(__doc__)
    parser.add_argument("--data", nargs="+", default=list(BUILT_IN))
    parser.add_argument("--settings", type=int, default=35, help="of each type")
    parser.add_argument("--masks", type=int, default=50, help="of a masked type")
    parser.add_argument("--rows", type=int, default=1000, help="at most, of a table")
    parser.add_argument("--splits", type=int, default=5, help="of the probe")
    return parser


def main() -> None:
    args = parse(arguments(), SMOKE)
    jax.config.update("jax_enable_x64", True)  # 1 − s² is what criteria look at
    report = Report("criteria", args)
    for data in args.data:
        started = time.perf_counter()
        x, columns, y = read(data, args.rows, args.seed)
        spectra, errors, validated = judge(x, columns, y, args)
        rows = []
        for name, score in CRITERIA.items():
            scores = np.array([score(s) for s in spectra])
            at_tau, at_best = correlated(scores, errors), correlated(scores, validated)
            rows.append(
                {
                    "name": name,
                    "contexts": int(np.isfinite(scores).sum()),
                    **{f"{kind}, d of tau": r for kind, r in at_tau.items()},
                    **{f"{kind}, validated": r for kind, r in at_best.items()},
                }
            )
        seconds = round(time.perf_counter() - started, 1)
        name = data.rsplit("/", 1)[-1]
        facts = {"num_rows": len(x), "num_contexts": len(spectra), "seconds": seconds}
        report.content["cases"].append({"case": name, "facts": facts, "rows": rows})
        print(table(name, rows), file=sys.stderr)
    report.write()


if __name__ == "__main__":
    sys.exit(main())
