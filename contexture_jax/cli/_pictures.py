"""The pictures of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from contexture_jax import plotting
from contexture_jax.cli._solve import Judgement, Sampling, Spectrum
from contexture_jax.data import Table

__all__ = ["draw"]


def draw(
    table: Table,
    spectrum: Spectrum,
    judgement: Judgement,
    sampling: Sampling | None,
    folder: Path,
) -> None:
    """Draw what there is to draw into `folder`."""
    values, target = spectrum.singular_values, table.target
    certificate, band = spectrum.certificate, None
    if sampling is not None:
        band = sampling.spectrum.band
    axes = plotting.plot_spectrum(
        values,
        decay_rate=judgement.decay_rate,
        numerical=(certificate.lower, certificate.proved.upper),
        sampling=band,
        cluster=certificate.cluster,
    )
    plotting.save(axes, folder / "spectrum.png")
    if judgement.usefulness is not None:
        plotting.save(
            plotting.plot_usefulness(judgement.usefulness), folder / "tau.png"
        )
    if target is None:
        axes = plotting.plot_functions(spectrum.left, singular_values=values)
    else:
        # By code, so that classes keep their order.
        axes = plotting.plot_functions(
            spectrum.left,
            target.values,
            singular_values=values,
            kind=target.kind,
            class_names=target.class_names or None,
            target_name=target.name,
        )
    plotting.save(axes, folder / "functions.png")
    if target is not None and judgement.target is not None:
        # Rounding may leave a share at -1e-17.
        energy = np.maximum(judgement.target.energy, 0.0)
        axes = plotting.plot_target_energy(energy, target_name=target.name)
        plotting.save(axes, folder / "energy.png")
