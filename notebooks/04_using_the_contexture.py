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
# # Using the contexture
#
# The spectrum is there: what now? This notebook predicts a target from few labels,
# with the error told before they are bought; moves the law of the inputs, and then
# the context itself; and holds representations of any kind, a network's attention
# among them, against contexts whose answers are known.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

import contexture_jax as cx

key = jax.random.key(0)
table = cx.data.load_features("breast_cancer", target="target")
x = np.asarray(table.features, np.float32)
assert table.target is not None
y = np.asarray(table.target.values, np.int32)
op = cx.association_operator(cx.contexts.knn(x, 15))
result, _ = cx.svd(op, 24, key=key)
mu = result.left

# %% [markdown]
# ## Few labels, and the error to expect
#
# A ridge probe on the first twelve functions. `forecast_error` sees forty labelled
# rows and tells the squared error that more labels would give, as a share of the
# variance; `learning_curve` then measures it, on rows that were left out. From these
# forty it is too hopeful, most so where few rows are to be labelled.

# %%
sizes = np.array([20, 40, 80, 160, 320])
some = np.random.default_rng(1).permutation(len(y))[:40]
told = cx.prediction.forecast_error(
    mu[:, :12], y[some], some, sizes, key=key, ridge=0.03
)
measured = cx.prediction.learning_curve(mu[:, :12], y, sizes, ridges=0.03, key=key)
raw = cx.prediction.learning_curve(x, y, sizes, ridges=0.03, key=key)

figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
axes[0].plot(sizes, told.errors, marker="o", label="told from 40 labels")
curve = np.asarray(measured.squared_errors).mean(axis=1)
axes[0].plot(sizes, curve, marker="s", label="measured")
axes[0].set(ylabel="squared error, of the variance", ylim=(0, None))
for name, one in (("12 functions", measured), ("30 columns", raw)):
    axes[1].plot(sizes, np.asarray(one.errors).mean(axis=1), marker="o", label=name)
axes[1].set(ylabel="share misclassified", ylim=(0, None))
for ax in axes:
    ax.set(xlabel="labelled rows", xscale="log")
    ax.legend()
print("told:    ", np.round(np.asarray(told.errors), 3))
print("measured:", np.round(curve, 3))
figure

# %% [markdown]
# ## When the inputs come from another law
#
# Rows with a large first column become up to ten times as likely, and P(a | x) stays.
# The functions of the new law are others; `contexture_shift` says how far each
# cluster of them has turned from the old span, without a model being trained.

# %%
tilts = np.array([0, 0.25, 0.5, 1, 1.5, 2])
turned, lost = [], []
for tilt in tilts:
    weights = np.exp(tilt * np.clip(x[:, 0], -1.2, 1.2))
    new_op = cx.operators.reweight(op, weights)
    new, _ = cx.svd(new_op, 12, key=key)
    moved = cx.evaluation.contexture_shift(
        result, new, new_op, 12, target=y.astype(np.float32)
    )
    turned.append(np.degrees(np.asarray(moved.angles)))
    lost.append(np.asarray(moved.lost))

figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
axes[0].plot(tilts, np.array(turned), color="tab:blue", alpha=0.5)
axes[0].set(ylabel="principal angles of 12 functions, degrees", ylim=(0, 90))
axes[1].plot(tilts, lost, marker="o")
axes[1].axhline(0, color="grey", lw=1)
axes[1].set(ylabel="share of the target lost by the old span")
for ax in axes:
    ax.set(xlabel="tilt of the first column")
figure

# %% [markdown]
# ## When the context itself is perturbed
#
# Noise on the columns changes who is a neighbour. `perturbation_bound` takes one pass
# over the new operator and bounds, cluster by cluster, how far the span can have
# turned; where the gap is closed it says so. Here a context with clear gaps: four
# groups on a line.

# %%
rng = np.random.default_rng(2)
groups = np.repeat([0.0, 1.0, 2.2, 3.8], 60)[:, None]
points = (groups + 0.25 * rng.normal(size=(240, 1))).astype(np.float32)
line = cx.association_operator(cx.contexts.rbf(points, gamma=4.0))
old, _ = cx.svd(line, 8, key=key)
clusters = cx.evaluation.clusters(old.singular_values, gap=0.02)[:3]
noises = np.array([0.001, 0.003, 0.01, 0.03, 0.1])
bounds, angles = [], []
for noise in noises:
    shaken = points + float(noise) * rng.normal(size=points.shape).astype(np.float32)
    other = cx.association_operator(cx.contexts.rbf(shaken, gamma=4.0))
    bound = cx.evaluation.perturbation_bound(old, line, other, key=key, gap=0.02)
    new, _ = cx.svd(other, 8, key=key)
    bounds.append(np.asarray(bound.sines)[:3])
    angles.append(
        [
            np.sin(
                cx.evaluation.principal_angles(old.left[:, i:j], new.left[:, i:j])[-1]
            )
            for i, j in clusters
        ]
    )

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for place, (i, j) in enumerate(clusters):
    colour = f"C{place}"
    name = f"function {i + 1}" if j == i + 1 else f"functions {i + 1} to {j}"
    ax.plot(noises, np.array(bounds)[:, place], color=colour, marker="o", label=name)
    ax.plot(noises, np.array(angles)[:, place], color=colour, marker="s", ls="--")
ax.axhline(1, color="grey", lw=1)
ax.text(noises[0], 1.1, "vacuous above", color="grey")
ax.set(
    xscale="log", yscale="log", xlabel="noise on the points", ylabel="sine of the turn"
)
ax.legend(title="bound (full), solved anew (dashed)")
figure

# %% [markdown]
# ## Which context has a representation learned?
#
# Four representations of the same rows, against four contexts. The share is the ratio
# trace over the largest that as many functions can have, less what shuffled rows
# give, so that 0 is chance and 1 the best. Each finds its own.

# %%
coarse = cx.contexts.labels((x[:, 0] > 0).astype(np.int32) + 2 * (x[:, 1] > 0))
contexts = {
    "neighbours": cx.contexts.knn(x, 15),
    "two columns": coarse,
    "diagnosis": cx.contexts.labels(y),
    "columns whitened": cx.contexts.teacher(x),
}
columns = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[0]
representations = {
    "functions of neighbours": mu[:, :8],
    "principal components": columns[:, :8],
    "indicator of diagnosis": np.eye(2, dtype=np.float32)[y],
    "noise": rng.normal(size=(len(y), 8)).astype(np.float32),
}
shares = np.zeros((len(representations), len(contexts)))
for column, context in enumerate(contexts.values()):
    one = cx.association_operator(context)
    rank = min(8, cx.evaluation.num_singular_values(one))
    s = cx.svd(one, rank, key=key)[0].singular_values
    for place, z in enumerate(representations.values()):
        fit = cx.evaluation.context_fit(z, one, s, key=key)
        shares[place, column] = fit.ratio_trace.adjusted

figure, ax = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
picture = ax.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto")
ax.set_xticks(range(len(contexts)), list(contexts))
ax.set_yticks(range(len(representations)), list(representations))
for (i, j), share in np.ndenumerate(shares):
    ax.text(j, i, f"{share:.2f}", ha="center", color="w" if share > 0.6 else "k")
figure.colorbar(picture, label="share above chance")
figure

# %% [markdown]
# ## Attention is a context
#
# A head with queries from x and keys from a is P(a | x): what it reads of values g is
# T g. Two layers of attention over a noisy ring of 48 tokens, whose queries and keys
# are scaled so that the heads differ in how sharply they look. Mixed and chained they
# are contexts like any other, and their spectra say what can come through.

# %%
ring = 2 * np.pi * np.arange(48) / 48
tokens = np.column_stack(
    [np.cos(ring), np.sin(ring), np.cos(2 * ring), np.sin(2 * ring)]
)
tokens = (tokens + 0.05 * rng.normal(size=tokens.shape)).astype(np.float32)


def layer_of(seed, sharpness):
    layer = nnx.MultiHeadAttention(2, 4, 8, decode=False, rngs=nnx.Rngs(seed))
    turn = jnp.asarray(np.eye(4, dtype=np.float32).reshape(4, 1, 4))
    kernel = turn * jnp.asarray(sharpness, jnp.float32)[None, :, None]
    for part in (layer.query, layer.key):
        part.kernel = nnx.Param(kernel)
    return layer


layers = [
    cx.diagnostics.attention_heads(layer_of(0, (1.0, 3.0)), tokens),
    cx.diagnostics.attention_heads(layer_of(1, (1.5, 2.0)), tokens),
]
seen = {
    "head 1": layers[0][0],
    "head 2": layers[0][1],
    "both, which not seen": cx.contexts.mixture(layers[0]),
    "both, which seen": cx.contexts.convex_combination(layers[0]),
    "two layers": cx.diagnostics.attention_rollout(layers, residual=0.0),
    "two layers and what passes by": cx.diagnostics.attention_rollout(layers),
}
profile = cx.diagnostics.head_profile(list(seen.values()), 12, key=key)
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for name, s in zip(seen, np.asarray(profile.singular_values), strict=True):
    ax.plot(np.arange(1, 13), s, marker=".", label=name)
ax.set(xlabel="index i", ylabel="singular value $s_i$", ylim=(0, 1.02))
ax.legend()
figure

# %% [markdown]
# ## A model is a context, too
#
# The gradients of a network at two rows have an inner product, and that kernel is the
# dual kernel of a context, the tangent kernel, here matrix-free. Gradient descent
# learns its first functions first. Most of the diagnosis lies along them before
# training, and some more of it after.

# %%
config = cx.models.MLPConfig(in_features=x.shape[1], out_features=1, hidden=(32,))
params, apply = cx.models.functional(cx.models.MLP(config, rngs=nnx.Rngs(0)))
aim = jnp.asarray(2.0 * y - 1, jnp.float32)[:, None]


@jax.jit
def train(params):
    def step(params, _):
        slope = jax.grad(lambda p: jnp.mean((apply(p, x) - aim) ** 2))(params)
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, slope), None

    return jax.lax.scan(step, params, None, length=300)[0]


figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for name, at in (("before training", params), ("after", train(params))):
    tangent = cx.diagnostics.tangent_operator(apply, at, x, key=key)
    found, _ = cx.svd(tangent, 12, key=key)
    share = cx.evaluation.target_energy(
        y.astype(np.float32), found.left, tangent.p_x
    ).fractions
    numbers = np.arange(1, 13)
    axes[0].plot(numbers, found.singular_values, marker=".", label=name)
    axes[1].plot(numbers, np.cumsum(np.asarray(share)), marker=".", label=name)
axes[0].set(ylabel="singular value $s_i$", ylim=(0, 1.02))
axes[1].set(ylabel="share of the diagnosis in them", ylim=(0, 1.02))
for ax in axes:
    ax.set(xlabel="number of functions")
    ax.legend()
figure
