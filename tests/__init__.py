"""Set what JAX reads when it is imported; child processes inherit it."""

import os

# XLA warns, of each program that it did not compile itself, of its own names of CPU features.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
