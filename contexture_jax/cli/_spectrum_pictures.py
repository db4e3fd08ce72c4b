"""The pictures of `contexture spectrum`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from contexture_jax.data import Table

if TYPE_CHECKING:
    from contexture_jax.cli._spectrum import Judged, Solved

__all__ = ["draw"]


def draw(table: Table, solved: Solved, judged: Judged, folder: Path) -> None:
    """Draw what there is to draw.

    Args:
        table: the data.
        solved: the spectrum.
        judged: what the judges say of it.
        folder: to draw into.
    """
    from contexture_jax import plotting
    from contexture_jax.cli._dimensions import dimensions, dimensions_by_name

    values, left = solved.result.singular_values, solved.result.left
    target, useful = table.target, judged.spectrum.usefulness
    certificate, band = solved.certificate, None
    # One band for all values, since intervals of single ones fail where values repeat
    # (theory.md §3.7).
    if judged.counts is not None:
        band = judged.counts.spectrum.band
    axes = plotting.plot_spectrum(
        values,
        decay_rate=judged.spectrum.decay_rate,
        numerical=certificate,
        sampling=band,
        cluster=certificate.cluster,
    )
    plotting.save(axes, folder / "spectrum.png")
    if useful is not None:
        others = dimensions_by_name(dimensions(solved, judged))
        axes = plotting.plot_usefulness(useful, others=others)
        plotting.save(axes, folder / "tau.png")
    if target is None:
        axes = plotting.plot_functions(left, singular_values=values)
    else:
        # By code, so that classes keep their order.
        axes = plotting.plot_functions(
            left,
            target.values,
            singular_values=values,
            kind=target.kind,
            class_names=target.class_names or None,
            target_name=target.name,
        )
    plotting.save(axes, folder / "functions.png")
    if target is not None and judged.target is not None:
        # Rounding may leave a share at -1e-17.
        energy = np.maximum(judged.target.energy, 0.0)
        axes = plotting.plot_target_energy(energy, target_name=target.name)
        plotting.save(axes, folder / "energy.png")
