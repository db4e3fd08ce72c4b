"""The command `contexture` (extra `cli`): a table in, a spectrum and a verdict out."""

from contexture_jax.cli._main import main

__all__ = ["main"]
