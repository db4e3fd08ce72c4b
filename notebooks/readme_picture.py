"""Draw the picture of the README, from the example there."""

from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import contexture_jax as cx

rng = np.random.default_rng(0)
x = rng.normal(size=(300, 2)) + 4 * rng.integers(0, 3, size=(300, 1))
context = cx.contexts.knn(x, num_neighbors=20)
result, _ = cx.svd(cx.association_operator(context), 8, key=jax.random.key(0))
clumps = np.rint(x.mean(axis=1) / 4).astype(int).clip(0, 2)
figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
cx.plotting.plot_spectrum(result.singular_values, ax=axes[0])
cx.plotting.plot_functions(result.left, target=clumps, ax=axes[1], target_name="clump")
figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)
