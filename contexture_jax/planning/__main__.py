"""The process of `plan_apart`."""

from contexture_jax.planning._plan import serve

serve()
