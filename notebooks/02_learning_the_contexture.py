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
# # Learning the contexture
#
# The first notebook computed the leading singular functions of a context by linear
# algebra. Here an encoder learns them from pairs, and we watch its spectrum converge to
# the exact one. The theory says that every objective below has the same target
# (theory.md §7); what differs is how its functions come out: rotated, scaled or in
# order. Rayleigh-Ritz puts them in order, whatever the objective.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import contexture_jax as cx

digits = load_digits()
x = digits.data.astype(np.float32)
x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1.0)
context = cx.contexts.knn(x, num_neighbors=30)
op = cx.association_operator(context)
rank = 16
exact, info = cx.svd(op, rank, key=jax.random.key(0))
info.status

# %% [markdown]
# ## Pairs, an encoder, an objective
#
# `cx.learning.learn` draws batches of pairs, embeds them, trains by the objective and
# brings the functions in order. A batch holds 512 times two neighbours a and a⁺ of one
# image x. KISE, the default, asks that the embeddings of the two agree; their
# covariance is solved inside the loss, so that nothing can collapse. The encoder Ψ of A
# learns the right functions, and Φ = T Ψ, its average over neighbours, the left ones.

# %%
num_steps = 200
schedule = cx.training.warmup_cosine(2e-3, num_steps)


def learn(stop):
    return cx.learning.learn(
        context,
        x,
        op=op,
        rank=rank,
        num_steps=stop,
        batch_size=512,
        seed=0,
        encoder=cx.learning.Encoder(hidden=(256, 256), output=64),
        optimizer=optax.adamw(schedule, weight_decay=1e-5),
        logging=cx.training.Logging(progress=False),
    )


# %% [markdown]
# ## A learned spectrum converges to the exact one
#
# What a run starts from and the pairs of each step depend on the seed alone, so shorter
# runs are the beginnings of the longest. At the end of each, the encoder is stopped and
# its functions are extracted by solving `B v = λ C v` on its span. Whatever the
# encoder, these values lie below the exact ones; the closer, the more of the contexture
# it holds.

# %%
stages = {f"{stop} steps": learn(stop).singular_values for stop in (1, 20, 80)}
learned = learn(num_steps)

figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
cx.plotting.plot_learned_spectrum(
    learned.singular_values, exact.singular_values, ax=ax, stages=stages
)
figure

# %%
found, best = learned.singular_values, np.asarray(exact.singular_values)
assert (found <= best + 1e-4).all()
assert (found**2).sum() > 0.95 * (best**2).sum()

# %% [markdown]
# ## The functions
#
# Singular values agree; do the functions? Each measure stands beside what shuffled rows
# would give.

# %%
aligned = cx.evaluation.alignment(learned.left, exact, op, key=jax.random.key(2))
for name in ("cca", "mutual_knn", "cka", "ratio_trace"):
    measured = getattr(aligned, name)
    print(
        f"{name:12} {measured.value:.3f}  (chance: {measured.null.upper:.3f} at most)"
    )

# %%
figure, axes = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
cx.plotting.plot_functions(exact.left, target=digits.target, ax=axes[0])
cx.plotting.plot_functions(learned.left, target=digits.target, ax=axes[1])
figure
