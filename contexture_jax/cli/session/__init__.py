"""What surrounds a run: devices, progress, signals, and results written whole."""

from contexture_jax.cli.session._computing import (
    check_installed,
    computing,
    kept_programs,
    make_mesh,
    meanwhile,
    precision,
)
from contexture_jax.cli.session._progress import Stages
from contexture_jax.cli.session._publish import (
    check_out,
    claimed,
    publishing,
    remove_temporaries,
    replacing,
)
from contexture_jax.cli.session._run import (
    RUN,
    check_claimed,
    claim_run,
    kept_of,
    told_in_one_line,
)
from contexture_jax.cli.session._signals import Ending, Interrupted, ending_on_signals
from contexture_jax.cli.session._solve import WatchedSolve

__all__ = [
    "RUN",
    "Ending",
    "Interrupted",
    "Stages",
    "WatchedSolve",
    "check_claimed",
    "check_installed",
    "check_out",
    "claim_run",
    "claimed",
    "computing",
    "ending_on_signals",
    "kept_of",
    "kept_programs",
    "make_mesh",
    "meanwhile",
    "precision",
    "publishing",
    "remove_temporaries",
    "replacing",
    "told_in_one_line",
]
