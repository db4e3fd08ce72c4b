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
# (theory.md §8); what differs is how its functions come out: rotated, scaled or in
# order. Rayleigh-Ritz puts them in order, whatever the objective.

# %%
import functools

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
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
# A batch holds 512 times two neighbours a and a⁺ of one image x. KISE asks that the
# embeddings of the two agree; their covariance is solved inside the loss, so that
# nothing can collapse. The encoder Ψ of A learns the right functions, and Φ = T Ψ, its
# average over neighbours, the left ones. The ridge of the whitening is the share of the
# mean variance below which a batch of this size sees nothing but noise.

# %%
batch_size, num_steps, width = 512, 200, 64


class Pairs:
    """The pairs of a step depend on the step alone, so that a run can be resumed."""

    def from_step(self, step):
        neighbors = np.asarray(context.indices)
        while True:
            rng = np.random.default_rng(step)
            rows = rng.integers(len(x), size=batch_size)
            slots = rng.integers(neighbors.shape[1], size=(2, batch_size))
            yield tuple(x[neighbors[rows, slot]] for slot in slots)
            step += 1

    def __iter__(self):
        return self.from_step(0)


config = cx.models.MLPConfig(
    in_features=x.shape[1], hidden=(256, 256), out_features=width, activation="tanh"
)
params, apply = cx.models.functional(cx.models.MLP(config, rngs=nnx.Rngs(0)))


def encode(params, batch, key):
    del key
    return tuple(apply(params, view) for view in batch)


loss = functools.partial(cx.losses.kise_pairs, constraint=cx.losses.Whiten(0.1))
optimizer = optax.adamw(cx.training.warmup_cosine(2e-3, num_steps), weight_decay=1e-5)
step = cx.training.make_step(encode, cx.training.from_loss(loss), optimizer)
state = cx.training.init_state(params, optimizer)

# %% [markdown]
# ## A learned spectrum converges to the exact one
#
# After a few steps the encoder is stopped and its functions are extracted by solving
# `B v = λ C v` on its span. Whatever the encoder, these values lie below the exact
# ones; the closer, the more of the contexture it holds.


# %%
def extract(state):
    phi = op.matmat(jax.jit(apply)(state.params, x))
    return cx.evaluation.rayleigh_ritz(phi, op, rank=rank)


stages = {"before training": np.asarray(extract(state).singular_values)}
for stop in (20, 80, num_steps):
    result = cx.training.fit(
        step,
        state,
        Pairs(),
        num_steps=stop,
        key=jax.random.key(1),
        logging=cx.training.Logging(progress=False),
    )
    state = result.state
    found = extract(state)
    stages[f"{stop} steps"] = np.asarray(found.singular_values)
learned = stages.pop(f"{num_steps} steps")

figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
cx.plotting.plot_learned_spectrum(learned, exact.singular_values, ax=ax, stages=stages)
figure

# %%
assert (learned <= np.asarray(exact.singular_values) + 1e-4).all()
assert (learned**2).sum() > 0.95 * (np.asarray(exact.singular_values) ** 2).sum()

# %% [markdown]
# ## The functions
#
# Singular values agree; do the functions? Each measure stands beside what shuffled rows
# would give.

# %%
aligned = cx.evaluation.alignment(found.left, exact, op, key=jax.random.key(2))
for name in ("cca", "mutual_knn", "cka", "ratio_trace"):
    measured = getattr(aligned, name)
    print(
        f"{name:12} {measured.value:.3f}  (chance: {measured.null.upper:.3f} at most)"
    )

# %%
figure, axes = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
cx.plotting.plot_functions(exact.left, target=digits.target, ax=axes[0])
cx.plotting.plot_functions(found.left, target=digits.target, ax=axes[1])
figure
