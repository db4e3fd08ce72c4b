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
# # The spectrum of a context
#
# 1,797 images of handwritten digits, 8 × 8 pixels, and no labels. What could an encoder
# learn from the fact that some images are neighbours of each other? The answer is known
# before any encoder is trained: it is the leading singular functions of the expectation
# operator of that context (theory.md §1).

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import contexture_jax as cx

digits = load_digits()
x = digits.data.astype(np.float32)
y = digits.target
key = jax.random.key(0)

# %% [markdown]
# ## A context, its operator, its spectrum
#
# X is an image, A one of its 30 nearest images, itself included. The operator
# (T g)(x) = E[g(A) | x] is stored as neighbour lists, never as 1,797 × 1,797 numbers.

# %%
context = cx.contexts.knn(x, num_neighbors=30)
op = cx.association_operator(context)
op.shape, op.cost(64)

# %%
result, info = cx.svd(op, 64, key=key)
print(info.status, "by", info.method, "-", info.reason)
print("largest residual:", float(info.residuals.max()))
print("energy beyond 64 functions:", float(info.tail_energy))

# %% [markdown]
# The singular values fall slowly: neighbours say a lot about an image. The usefulness
# τ_d weighs the first direction left out against what d functions hold (theory.md §3).

# %%
judged = cx.evaluation.usefulness(result.singular_values)
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
cx.plotting.plot_spectrum(result.singular_values, ax=axes[0])
cx.plotting.plot_usefulness(judged, ax=axes[1])
figure

# %% [markdown]
# ## The functions
#
# The labels were not used so far. They only colour the points below.

# %%
figure, ax = plt.subplots(figsize=(7, 5), layout="constrained")
cx.plotting.plot_functions(result.left, target=y, ax=ax)
figure

# %% [markdown]
# How much of the labels lies in the functions? Each carries a share of the variance
# between classes, and 64 functions carry most of it.

# %%
energy = cx.evaluation.class_energy(y, result.left, op.p_x)
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
cx.plotting.plot_target_energy(energy.fractions, ax=ax)
figure

# %% [markdown]
# ## New images
#
# The functions extend to images that were not there: μ_i(x) = E[ν_i(A) | x] / s_i. Half
# of the images make the context, the other half is read through it, and a nearest
# neighbour in 20 functions names the digit.

# %%
half = len(x) // 2
train = cx.contexts.knn(x[:half], num_neighbors=30)
trained, _ = cx.svd(cx.association_operator(train), 20, key=key)
seen = np.asarray(trained.left)
unseen = np.asarray(cx.extend(trained, train, x[half:]))
nearest = ((unseen[:, None] - seen[None]) ** 2).sum(axis=2).argmin(axis=1)
accuracy = (y[:half][nearest] == y[half:]).mean()
print(f"1-nearest-neighbour accuracy in 20 functions: {accuracy:.3f}")

# %% [markdown]
# At the images of the context itself the extension gives the functions back:

# %%
float(np.abs(cx.extend(trained, train, x[:half]) - trained.left).max())

# %% [markdown]
# ## Contexts compared
#
# A Gaussian kernel of two widths, and the labels themselves. Very strong and very weak
# association are both of little use: τ alone does not tell them apart, the spectrum
# does.

# %%
contexts = {
    "30 neighbours": context,
    "Gaussian, γ = 0.0001": cx.contexts.rbf(x, 0.0001),
    "Gaussian, γ = 0.05": cx.contexts.rbf(x, 0.05),
    "labels": cx.contexts.labels(y),
}
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for name, other in contexts.items():
    operator = cx.association_operator(other)
    rank = min(60, min(operator.shape) - 1)
    found, _ = cx.svd(operator, rank, key=key, method="krylov", tol=1e-3)
    s = np.asarray(found.singular_values)
    ax.plot(np.arange(1, rank + 1), np.maximum(s, 1e-4), marker=".", label=name)
ax.set(yscale="log", xlabel="index i", ylabel="singular value $s_i$")
ax.legend(fontsize=8)
figure
