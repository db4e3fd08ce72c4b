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
# # From laptop to pod
#
# A spectrum that fits on a laptop today may have to be one of a million rows
# tomorrow. This notebook takes one program from one device to eight, ends it half way
# and goes on with two, and then asks what the same program would take on chips that
# are not here.
#
# The eight devices are parts of one CPU: they show what lies where and what is told,
# not speed. The line that makes them comes before anything that uses JAX.

# %%
import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

jax.config.update("jax_num_cpu_devices", 8)

import contexture_jax as cx

table = cx.data.load_features("digits", target="target")
x = np.asarray(table.features, np.float32)
gamma = 1.0 / x.shape[1]
context = cx.contexts.rbf(x, gamma=gamma)
rank = 16
x.shape, jax.device_count()

# %% [markdown]
# ## One device
#
# The context is a Gaussian kernel between all rows. Its operator is kept in tiles,
# which are made when they are needed: memory grows with n, work with n².

# %%
alone = cx.association_operator(context)
result, info = cx.svd(alone, rank, key=jax.random.key(0))
cost = alone.cost(rank)
print(f"{info.method}, {info.num_passes:g} passes, {info.status}")
print(f"one product: {cost.flops / 1e9:.2f} Gflop, {cost.argument_bytes / 1e6:.2f} MB")

# %% [markdown]
# ## Eight devices
#
# A mesh is all that changes. Rows of x are cut over the devices and keys go round in
# a ring; no device ever holds an array of n × n numbers, nor one of n × rank.

# %%
mesh = jax.make_mesh((8,), ("x",))
shared = cx.association_operator(context, mesh=mesh)
again, _ = cx.svd(shared, rank, key=jax.random.key(0))
apart = np.abs(np.asarray(again.singular_values - result.singular_values)).max()
assert apart < 1e-5
print(f"singular values differ by {apart:.1e}")
print(f"of one device: {shared.cost(rank).argument_bytes / 1e6:.2f} MB")
for told in shared.collectives(rank):
    print(told)

# %% [markdown]
# ## Ended half way, and gone on with two
#
# After each pass `on_step` is given the state of the solve, which `save_state` writes
# to a file in one go. A solve goes on from there on another number of devices, to the
# same result up to rounding; on the same number it is the same bit for bit.

# %%
path = Path(tempfile.mkdtemp()) / "state.npz"


def end_early(progress):
    cx.solvers.save_state(path, progress.state)
    return True


options = {"key": jax.random.key(0), "method": "krylov"}
_, stopped = cx.svd(shared, rank, on_step=end_early, **options)
two = jax.make_mesh((2,), ("x",), devices=jax.devices()[:2])
on_two = cx.association_operator(context, mesh=two)
gone_on, whole = cx.svd(on_two, rank, state=cx.solvers.load_state(path), **options)
apart = np.abs(np.asarray(gone_on.singular_values - result.singular_values)).max()
print(f"{stopped.num_passes:g} passes, {stopped.status}")
print(f"{whole.num_passes:g} passes, {whole.status}; values differ by {apart:.1e}")
assert apart < 1e-5

# %% [markdown]
# ## More than memory holds
#
# Where the table is what is large, it lies in a folder of shards, and the operator
# reads them block by block. Here A is a pixel of an image, the more probable the
# brighter it is among all images: four files, of which blocks of 64 kB are in memory.

# %%
folder = Path(tempfile.mkdtemp())
light = 1.0 + x - x.min(axis=0)
for number, part in enumerate(np.array_split(light, 4)):
    np.save(folder / f"{number}.npy", part)
shards = cx.data.open_shards(folder)
streamed = cx.operators.streamed_operator(shards, block_bytes=2**16)
found, of_stream = cx.svd(streamed, 4, key=jax.random.key(0), tol=1e-4)
whole = cx.association_operator(cx.contexts.joint(light))
exact, _ = cx.svd(whole, 4, key=jax.random.key(0))
apart = np.abs(np.asarray(found.singular_values - exact.singular_values)).max()
assert apart < 1e-4
print(
    f"{of_stream.num_passes:g} passes, {of_stream.status}; values differ by {apart:.1e}"
)

# %% [markdown]
# ## What it takes on chips that are not here
#
# `planning.plan` compiles the real program from shapes alone, and reads off what a
# device holds. Here at a fixed number of rows a device: what a device holds must not
# grow with their number. `contexture plan` prints the same, and, with the compiler of
# a TPU (`pip install ".[tpu-aot]"`), for `v5e:16x16` as well.

# %%
rows, columns = 1024, 16
plans = []
for devices in (2, 8):
    problem = cx.planning.Problem(
        "rbf", rows=rows * devices, columns=columns, rank=rank
    )
    topology = cx.planning.parse_topology(f"cpu:{devices}")
    plans.append(cx.planning.plan_apart(problem, topology, largest="none"))
for found in plans:
    sizes, told = found["bytes"], found["collectives"]
    print(
        f"{found['chips']} devices: {sizes['arguments'] / 1e6:.2f} MB of arguments,"
        f" {sizes['temporaries'] / 1e6:.2f} of work, {len(told)} kinds of exchange"
    )
held = [found["bytes"]["arguments"] + found["bytes"]["temporaries"] for found in plans]
assert max(held) < 1.2 * min(held)

# %% [markdown]
# How long a pass takes at least follows from counts and the published peaks of a
# chip. Twice the rows are four times the pairs: at as many rows a chip a pass takes
# longer the more chips there are, and at a fixed number of rows it gets shorter until
# something else binds.

# %%
problem = cx.planning.Problem("rbf", rows=1_048_576, columns=64, rank=64)
pod = cx.planning.parse_topology("v5e:16x16")
curves = cx.planning.scaling(problem, pod)
neighbors = cx.planning.Problem("knn", rows=1_048_576, columns=64, rank=64)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
for axis, (name, kind) in zip(
    axes, (("Gaussian kernel", problem), ("30 neighbours", neighbors)), strict=True
):
    curves = cx.planning.scaling(kind, pod)
    for word, label in (("weak", "4,096 rows a chip"), ("strong", "a million rows")):
        chips = [point["chips"] for point in curves[word]]
        seconds = [point["seconds"] for point in curves[word]]
        axis.loglog(chips, seconds, "o-", base=2, label=label)
    axis.set_title(name)
    axis.set_xlabel("chips (TPU v5e)")
    axis.set_yscale("log", base=10)
axes[0].set_ylabel("least time of a pass, s")
axes[0].legend(frameon=False)
plt.show()

# %% [markdown]
# ## Where to go from here
#
# The README has the commands: "Many processes" for several processes on one machine, a
# node with eight GPUs, SLURM and a slice of a TPU pod; "Past memory" for folders of
# shards; "Plan for chips that are not here" for `contexture plan`.
