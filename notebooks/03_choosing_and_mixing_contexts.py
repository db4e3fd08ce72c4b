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
# near, which cells go together. This one goes from raw columns to a context that is
# mixed of two and knows more of the target than each of them, and ends with tables on
# which mixing does not help.

# %%
import matplotlib.pyplot as plt
import numpy as np

import contexture_jax as cx

table = cx.data.load_features("breast_cancer", target="target")
assert table.target is not None
x = np.asarray(table.features, np.float32)
y = table.target.values
x.shape, table.target.class_names

# %% [markdown]
# ## Two contexts
#
# - *Neighbours*: A is one of the ten rows nearest to X.
# - *Cells*: A says in which fifth of its column one cell of the row lies, and which
#   column that is, one at random. Its functions are those of multiple correspondence
#   analysis: sums of a function of each column.
#
# Neither sees the target.


# %%
def contexts_of(x, num_neighbors=10):
    edges = np.quantile(x, [0.2, 0.4, 0.6, 0.8], axis=0)
    fifths = (x[None] > edges[:, None]).sum(axis=0)  # (n, columns), 0 to 4
    cells = np.eye(5, dtype=np.float32)[fifths].reshape(len(x), -1)
    return cx.contexts.knn(x, num_neighbors), cx.contexts.conditional(cells)


names = ("neighbours", "cells")
parts = contexts_of(x)

# %% [markdown]
# ## What can be said without the target
#
# `criterion_weights` tries convex combinations of contexts, T T* = Σ w_j T_j T_j*, and
# shows the spectrum and the functions of each, exactly, to a criterion. Here that is τ
# (theory.md §3), and what it is shown is kept.

# %%
dim = 24


def tau(s):
    return float(cx.evaluation.usefulness(s, complete=True).tau)


def combinations(contexts, num_steps):
    """The weights that were tried, their τ, singular values and first functions."""
    shown = []

    def criterion(s, left):
        shown.append((s, left[:, :dim]))
        return tau(s)

    rank = contexts[0].shape[0] - 1
    found = cx.ranking.criterion_weights(contexts, rank, criterion, num_steps=num_steps)
    return found, shown


found, shown = combinations(parts, 12)
share = found.tried[:, 0]  # of the neighbours
alone = [int(share.argmax()), int(share.argmin())]

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for name, number in zip((*names, "half of each"), (*alone, 0), strict=True):
    s = shown[number][0]
    told = cx.evaluation.verdict(s, complete=True)
    chi_squared = float(cx.evaluation.chi_squared(s))
    print(
        f"{name:13} τ = {found.scores[number]:.3f}, Σ s² = {chi_squared:5.1f},"
        f" {told.association}"
    )
    ax.plot(np.arange(1, 65), s[:64], marker=".", label=name)
ax.set(xlabel="index i", ylabel="singular value $s_i$", ylim=(0, 1.02))
ax.legend()
figure

# %% [markdown]
# ## What they know of the target
#
# In each of 40 splits a quarter of the rows is left out. A ridge regression on the
# first 24 functions is fitted on the others, less a quarter of those for validation.


# %%
def splits_of(y):
    splits = []
    for seed in range(40):
        test = cx.prediction.held_out_rows(y, seed=seed)
        rest = np.flatnonzero(~test)
        check = cx.prediction.held_out_rows(y[rest], seed=seed)
        splits.append((rest[~check], rest[check], test))
    return splits


def probe(z, y, ridge=0.03):
    """Shares misclassified for validation and among those left out, (2, splits)."""
    codes, errors = np.eye(y.max() + 1)[y], []
    for fit, check, test in splits_of(y):
        one = np.column_stack([np.ones(len(z)), z])
        gram = one[fit].T @ one[fit] / len(fit) + ridge * np.eye(one.shape[1])
        weights = np.linalg.solve(gram, one[fit].T @ codes[fit] / len(fit))
        wrong = (one @ weights).argmax(axis=1) != y
        errors.append((wrong[check].mean(), wrong[test].mean()))
    return np.array(errors).T


probes = np.array([probe(left, y) for _, left in shown])  # (weights, 2, splits)

# %% [markdown]
# Splits differ more than contexts do. So each is compared with the better part in the
# same splits; the band is the standard error of that difference.

# %%
order = np.argsort(share)
base = min((probes[number, 1] for number in alone), key=np.mean)
less = (probes[:, 1] - base)[order]
noise = less.std(axis=1, ddof=1) / np.sqrt(less.shape[1])
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
axes[0].fill_between(
    share[order], less.mean(axis=1) - noise, less.mean(axis=1) + noise, alpha=0.3
)
axes[0].plot(share[order], less.mean(axis=1), marker="o")
axes[0].axhline(0, color="grey", lw=1)
axes[0].set(ylabel="error less that of the better part")
axes[1].plot(share[order], found.scores[order], marker="o", color="tab:orange")
axes[1].set(ylabel="τ")
for ax in axes:
    ax.set(xlabel="weight of the neighbours: cells alone at 0, neighbours at 1")
figure

# %% [markdown]
# Why? Each context has the target spread over more than 24 functions. What both know
# has the largest s² in the combination and comes first: its first functions hold a
# little more of the target than those of either.

# %%
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
uniform = np.full(len(y), 1 / len(y), np.float32)
for name, number in zip((*names, "half of each"), (*alone, 0), strict=True):
    energy = cx.evaluation.class_energy(y, shown[number][1], uniform)
    ax.plot(np.arange(1, dim + 1), np.cumsum(energy.fractions), marker=".", label=name)
ax.set(xlabel="number of functions d", ylabel="share of the target in them")
ax.legend()
figure

# %% [markdown]
# ## How many functions
#
# More functions leave less of the target out, and a probe loses more by fitting them to
# few labels. `probe_tradeoff` bounds both (theory.md §3.9) for least squares on the
# exact functions: from what of the target each function holds, how much of all d one
# row can hold (their leverage), and the number of labels. Here the target is ±1, each
# label is off by noise of variance 1, and 600 rows are drawn with replacement. The
# points are what was measured, the mean of the squared error over 40 such draws.

# %%
signs = np.where(y == 1, 1.0, -1.0)
signs -= signs.mean()
num_labels, functions = 600, np.asarray(shown[0][1], np.float32)
in_each = (functions.T @ signs / len(signs)) ** 2
bounds = cx.evaluation.probe_tradeoff(
    np.maximum(signs.var() - np.cumsum(in_each), 0).astype(np.float32),
    cx.evaluation.probe_leverage(functions),
    num_labels,
    noise=1.0,
)


def measured(dim, num_draws=40):
    one = np.column_stack([np.ones(len(signs)), functions[:, :dim]])
    errors = []
    for seed in range(num_draws):
        rng = np.random.default_rng(seed)
        drawn = rng.integers(len(signs), size=num_labels)
        labels = signs[drawn] + rng.normal(size=num_labels)
        weights = np.linalg.lstsq(one[drawn], labels, rcond=None)[0]
        errors.append(((one @ weights - signs) ** 2).mean())
    return np.mean(errors)


figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
errors = [measured(d) for d in range(1, dim + 1)]
cx.plotting.plot_tradeoff(bounds, ax, measured=errors)
figure

# %% [markdown]
# The measured error lies on the lower bound, and hardly rises: 24 functions are few for
# 600 labels. The upper bound is of nineteen draws in twenty, and pays for the one row
# that may hold a function almost alone: it advises three functions, and says nothing
# of more than a dozen. An error to expect is another thing: `contexture predict`
# forecasts one.

# %% [markdown]
# ## Weights that are found, and other ways to mix
#
# - *min–max*: those that serve best the context that is served worst, by its loss as
#   printed in the literature, or by the excess of the loss over what it is alone;
# - *least τ*, without the target;
# - *validated*: in each split the weights with the least error on the rows for that;
# - *convolved*: a step of the neighbours' dual kernel, then a cell: a weaker context;
# - *concatenated*: half of the functions of each, whitened together: the practical form
#   of a stronger one, `join`.

# %%
print("min–max:              ", cx.ranking.min_max_weights(parts, dim).weights)
excess = cx.ranking.min_max_weights(parts, dim, excess=True).weights
print("min–max of the excess:", excess)
print("least τ:              ", found.weights)


# %%
def compared(x, y, num_steps=4, num_neighbors=10):
    """The errors of parts and mixtures, each of `dim` functions, in each split."""
    parts = contexts_of(x, num_neighbors)
    found, shown = combinations(parts, num_steps)
    probes = np.array([probe(left, y) for _, left in shown])
    share = found.tried[:, 0]
    one, two = int(share.argmax()), int(share.argmin())
    best = probes[:, 0].argmin(axis=0)
    _, convolved = combinations([cx.contexts.convolve(*parts)], 1)
    halves = [shown[number][1][:, : dim // 2] for number in (one, two)]
    side_by_side = cx.evaluation.concatenate(*halves)
    return {
        "neighbours": probes[one, 1],
        "cells": probes[two, 1],
        "equal weights": probes[0, 1],
        "least τ": probes[found.scores.argmin(), 1],
        "validated weights": probes[best, 1, np.arange(len(best))],
        "convolved": probe(convolved[0][1], y)[1],
        "concatenated": probe(np.asarray(side_by_side.features), y)[1],
        "raw columns": probe(x, y)[1],
    }


def draw(errors, title, ax):
    base = min((errors[name] for name in names), key=np.mean)
    for place, (name, error) in enumerate(errors.items()):
        less = error - base
        noise = less.std(ddof=1) / np.sqrt(len(less))
        is_mixed = name not in names and name != "raw columns"
        colour = "tab:blue" if is_mixed else "tab:grey"
        ax.barh(place, less.mean(), xerr=noise, color=colour)
        print(
            f"{title:14} {name:18} {error.mean():.4f},"
            f" less the better part {less.mean():+.4f} ± {noise:.4f}"
        )
    ax.set(title=title, yticks=range(len(errors)), yticklabels=list(errors))
    ax.set(xlabel="error less that of the better part")
    ax.invert_yaxis()


figure, axes = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
draw(compared(x, y, 12), "10 neighbours", axes[0])
draw(compared(x, y, num_neighbors=20), "20 neighbours", axes[1])
figure

# %% [markdown]
# Equal weights and the convolution are below the better part by more than twice their
# standard error, concatenation is not. Neighbours are near to too strong (Σ s² = 56, τ
# near 2): many functions are predictable, among them such as few rows share, and what
# weakens them helps. That is the rule of thumb: too strong, convolve; too weak, join or
# concatenate; else combine. Neither τ nor min–max finds the weights here: by its loss
# alone the weaker context takes all weight, whatever it knows.
#
# And the gain is one over ten neighbours. Twenty are a better part, at the right, which
# no mixture beats: the convolution is as good, and equal weights are worse by more than
# twice the standard error. Choose the part before the mixture.

# %% [markdown]
# ## Where it does not help
#
# The same two contexts of two other tables, nothing else changed. Of wine the raw
# columns hold all that a linear model needs, and no context improves on the better
# part. Of digits a mean over pixels says little beside the nearest images; what is
# mixed with the neighbours is as good as they are, within noise.

# %%
figure, axes = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
for name, ax in zip(("wine", "digits"), axes, strict=True):
    other = cx.data.load_features(name, target="target")
    assert other.target is not None
    rows = np.random.default_rng(0).permutation(len(other.features))[:600]
    features = np.asarray(other.features, np.float32)[rows]
    draw(compared(features, other.target.values[rows]), name, ax)
figure
