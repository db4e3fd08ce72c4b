"""The expectation operator of a context, in storages to choose from."""

from contexture_jax.operators._base import AssociationOperator, Cost

__all__ = ["AssociationOperator", "Cost"]
