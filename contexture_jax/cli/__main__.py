"""`python -m contexture_jax.cli`."""

import sys

from contexture_jax.cli import main

sys.exit(main())
