# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Choosing and mixing contexts
#
# The first two notebooks took a context as given. A table offers many: which rows are
# near, under which scale, which cells go together. This one goes from raw columns to a
# context that is mixed of several and knows more of the target than each of them, and
# says where it does not.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import contexture_jax as cx

table = cx.data.load_features("breast_cancer", target="target")
x = np.asarray(table.features, np.float32)
y = table.target.values
x.shape, table.target.class_names

# %% [markdown]
# ## Three contexts
#
# - *Neighbours*: A is one of the 20 rows nearest to X.
# - *Cells*: A says in which fifth of its column one cell is, and which column that is:
#   one of the columns at random, with its index seen, a convex combination itself. Its
#   functions are those of multiple correspondence analysis.
# - *Gaussian*: A is a row, P⁺(a|x) ∝ exp(−γ ‖x − a‖²).
#
# None of them sees the target.

# %%
edges = np.quantile(x, [0.2, 0.4, 0.6, 0.8], axis=0)
fifths = (x[None] > edges[:, None]).sum(axis=0)  # (n, columns), 0 to 4
cells = np.eye(5, dtype=np.float32)[fifths].reshape(len(x), -1)
contexts = {
    "neighbours": cx.contexts.knn(x, 20),
    "cells": cx.contexts.conditional(cells),
    "gaussian": cx.contexts.rbf(x, cx.data.auto_gamma(table)),
}
names = list(contexts)

# %% [markdown]
# ## What can be said without the target
#
# The spectrum says how much there is to learn (theory.md §3). Each context alone is one
# of the combinations that `criterion_weights` tries; with a criterion that keeps what
# it is shown, it is also a way to have all spectra, exactly, at once.

# %%
dim = 16
seen = []


def tau(s, left):
    seen.append((s, left[:, :dim]))
    return float(cx.evaluation.usefulness(s, complete=True).tau)


by_tau = cx.ranking.criterion_weights(
    list(contexts.values()), len(x) - 1, tau, num_steps=6
)
alone = [int(np.flatnonzero(by_tau.tried[:, j] == 1)[0]) for j in range(len(names))]

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for name, number in zip(names, alone, strict=True):
    s = seen[number][0]
    told = cx.evaluation.verdict(s, complete=True)
    print(f"{name:11} τ = {by_tau.scores[number]:.3f}, {told.association}")
    ax.plot(np.arange(1, 65), s[:64], marker=".", label=name)
ax.set(xlabel="index i", ylabel="singular value $s_i$", ylim=(0, 1.02))
ax.legend()
figure

# %% [markdown]
# ## What they know of the target
#
# In each of 20 splits a quarter of the rows is left out. A ridge regression on the
# first 16 functions is fitted on the others, less a quarter for validation.

# %%
splits = []
for seed in range(20):
    test = cx.prediction.held_out_rows(y, seed=seed)
    rest = np.flatnonzero(~test)
    check = cx.prediction.held_out_rows(y[rest], seed=seed)
    splits.append((rest[~check], rest[check], test))


def probe(z, ridge=1e-3):
    """Shares misclassified for validation and among those left out, each split."""
    found = []
    for fit, check, test in splits:
        one = np.column_stack([np.ones(len(z)), z])
        gram = one[fit].T @ one[fit] / len(fit) + ridge * np.eye(one.shape[1])
        weights = np.linalg.solve(gram, one[fit].T @ (2.0 * y[fit] - 1) / len(fit))
        wrong = (one @ weights > 0) != y
        found.append((wrong[check].mean(), wrong[test].mean()))
    return np.array(found).T


probes = np.array([probe(left) for _, left in seen])  # (combinations, 2, splits)
errors = {name: probes[number, 1] for name, number in zip(names, alone, strict=True)}
for name, error in errors.items():
    print(f"{name:11} {error.mean():.4f} ± {error.std():.4f}")

# %% [markdown]
# ## All weights
#
# Each point of the triangle is a convex combination, T T* = Σ w_j T_j T_j*: a network
# that learns it has one Φ, and a Ψ for each context. Corners are the contexts alone.

# %%
corners = np.array([[0, 0], [1, 0], [0.5, np.sqrt(3) / 2]])
places = by_tau.tried @ corners
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for ax, title, values in (
    (axes[0], "error on rows left out", probes[:, 1].mean(axis=1)),
    (axes[1], "τ", by_tau.scores),
):
    dots = ax.scatter(*places.T, c=values, s=260, cmap="viridis_r")
    figure.colorbar(dots, ax=ax, label=title)
    for name, (across, up) in zip(names, corners, strict=True):
        ax.annotate(
            name,
            (across, up),
            (0, 14 if up else -22),
            textcoords="offset points",
            ha="center",
        )
    ax.set(xlim=(-0.2, 1.2), ylim=(-0.15, 1.05), xticks=[], yticks=[])
    ax.set_frame_on(False)
figure

# %% [markdown]
# ## Weights that are found
#
# - by *min–max*: the weight of the context grows that is served worst, by its loss as
#   printed in the literature, or by how much of the loss is due to sharing Φ;
# - by *τ*, the least of the triangle, without the target;
# - by *validation*, in each split those with the least error on the rows held out for
#   that.
#
# Beside them the practical form of a stronger context: a third of the functions of
# each, whitened together.

# %%
parts = list(contexts.values())
found = {
    "equal": np.full(3, 1 / 3),
    "min–max": cx.ranking.min_max_weights(parts, dim).weights,
    "min–max of the excess": cx.ranking.min_max_weights(
        parts, dim, excess=True
    ).weights,
    "least τ": by_tau.weights,
}


def functions(context):
    op = cx.association_operator(context)
    result, _ = cx.svd(op, dim, key=jax.random.key(0))
    return np.asarray(result.left, np.float64)


for name, weights in found.items():
    mixed = cx.contexts.convex_combination(parts, weights)
    errors[name] = probe(functions(mixed))[1]
    shares = ", ".join(f"{n} {w:.2f}" for n, w in zip(names, weights, strict=True))
    print(f"{name:22} {shares}")

best = probes[:, 0].argmin(axis=0)
errors["validated"] = probes[best, 1, np.arange(len(splits))]
third = [seen[number][1][:, : dim // 3] for number in alone]
side_by_side = cx.evaluation.concatenate(*third)
errors["concatenated"] = probe(np.asarray(side_by_side.features))[1]
errors["raw columns"] = probe(x)[1]

# %% [markdown]
# Splits differ more than contexts do, so each is compared with the best part in the
# same splits.

# %%
base = min((errors[name] for name in names), key=np.mean)
figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
for place, (name, error) in enumerate(errors.items()):
    less = error - base
    noise = less.std(ddof=1) / np.sqrt(len(less))
    colour = "tab:grey" if name in names or name == "raw columns" else "tab:blue"
    ax.barh(place, less.mean(), xerr=noise, color=colour)
    print(
        f"{name:22} {error.mean():.4f},"
        f" less the best part {less.mean():+.4f} ± {noise:.4f}"
    )
ax.set(
    yticks=range(len(errors)),
    yticklabels=list(errors),
    xlabel="error less that of the best part",
)
ax.invert_yaxis()
figure
