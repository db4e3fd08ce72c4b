"""Check an installed wheel: it is not the source tree's, and computes a spectrum."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp

import contexture_jax as cx

tree = Path(sys.argv[1])
found = Path(cx.__file__)
if found.is_relative_to(tree) and not found.is_relative_to(tree / "build"):
    sys.exit(f"imported from the source tree: {found}")
context = cx.contexts.joint(jnp.eye(4) + 1.0)
result, info = cx.svd(cx.association_operator(context), 3, key=jax.random.key(0))
if info.status != "converged" or not jnp.allclose(result.singular_values, 0.2):
    sys.exit(f"wrong spectrum: {result.singular_values}, {info.status}")
print(f"contexture_jax {cx.__version__} works from {found.parent}")
