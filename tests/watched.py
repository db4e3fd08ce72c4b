"""One of two processes that watch each other: how one of them ends.

Run as `python -m tests.watched INDEX PORT DIRECTORY HOW`. Process 1 dies, is stopped,
fails, or stays behind; or process 0 dies. Nobody's end is waited for by a program.
"""

import os
import signal
import sys
import time
from pathlib import Path

from contexture_jax._core.agreement import DisagreementError, agree
from contexture_jax._core.watch import watched
from tests import processes

PATIENCE = 6.0
ENDS = {"killed": signal.SIGKILL, "first": signal.SIGKILL, "stopped": signal.SIGSTOP}


def main() -> None:
    index, port, directory, how = int(sys.argv[1]), *sys.argv[2:5]
    processes.join(index, port)
    folder = Path(directory) / (str(index) if how == "unshared" else "processes")
    with watched(folder, lambda: "nothing is kept", patience=PATIENCE) as watch:
        if index == (how != "first"):
            if how in ENDS:
                os.kill(os.getpid(), ENDS[how])
            if how == "fails":
                raise ValueError("no\nluck")
            if how == "refused":
                slowly_refused()
        elif how == "behind":
            watch.reached()
        if how == "refused":
            agree({}, "no luck")
        if how != "well":
            time.sleep(120)


def slowly_refused() -> None:
    try:
        agree({})
    except DisagreementError:
        time.sleep(2 * PATIENCE)  # as on a machine that is busy
        raise


if __name__ == "__main__":
    main()
