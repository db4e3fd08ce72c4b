"""What the tests of one file share."""

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A run that nothing interrupts, and its directory."""
    # Not before: the hook that checks types of arrays comes first.
    from tests.training.runs import train

    directory = tmp_path_factory.mktemp("whole")
    return train(directory), directory
