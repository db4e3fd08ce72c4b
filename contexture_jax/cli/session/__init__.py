"""What surrounds a run: devices, progress, signals, and results written whole."""

from contexture_jax.cli.session._computing import (
    check_installed,
    computing,
    kept_programs,
    make_mesh,
    meanwhile,
    precision,
)
from contexture_jax.cli.session._processes import Processes, joined
from contexture_jax.cli.session._progress import Advance, Stages
from contexture_jax.cli.session._publish import (
    check_out,
    claimed,
    made_inside,
    publishing,
    remove_temporaries,
    replacing,
)
from contexture_jax.cli.session._run import (
    RUN,
    check_claimed,
    check_run,
    check_same,
    claim_run,
    kept_of,
    resumed,
    told_in_one_line,
)
from contexture_jax.cli.session._signals import Ending, Interrupted, ending_on_signals
from contexture_jax.cli.session._solve import SOLVE, WatchedSolve

__all__ = [
    "RUN",
    "SOLVE",
    "Advance",
    "Ending",
    "Interrupted",
    "Processes",
    "Stages",
    "WatchedSolve",
    "check_claimed",
    "check_installed",
    "check_out",
    "check_run",
    "check_same",
    "claim_run",
    "claimed",
    "computing",
    "ending_on_signals",
    "joined",
    "kept_of",
    "kept_programs",
    "made_inside",
    "make_mesh",
    "meanwhile",
    "precision",
    "publishing",
    "remove_temporaries",
    "replacing",
    "resumed",
    "told_in_one_line",
]
