"""Say in one sentence what is wrong with a release of JAX that this package was not tested on."""

from __future__ import annotations

import re
import warnings

import jax

__all__ = ["check"]

_OLDEST = (0, 10, 1)
_WRONG = (0, 10, 2)
_UNTESTED = (0, 13)  # the first release line that the tests have not been run on


def check(release: str) -> None:
    """Refuse releases that cannot work and warn of those that nobody has tried.

    Args:
      release: ``jax.__version__``. **Static**.

    Raises:
      ImportError: jax 0.10.2, which returns wrong numbers, and releases before 0.10.1.
    """
    numbers = tuple(int(part) for part in re.findall(r"\d+", release)[:3])
    if numbers == _WRONG:
        raise ImportError(
            "sparsecode_jax: jax 0.10.2 silently returns wrong numbers on CPU (jax-ml/jax#39103), "
            "so it is refused; install any other release from 0.10.1 on, such as "
            "pip install 'jax>=0.10.1,!=0.10.2,<0.13'."
        )
    if numbers < _OLDEST:
        raise ImportError(
            f"sparsecode_jax: jax {release} is installed, but 0.10.1 or newer is needed; run "
            "pip install 'jax>=0.10.1,!=0.10.2,<0.13'."
        )
    if numbers >= _UNTESTED:
        warnings.warn(
            f"sparsecode_jax: jax {release} is newer than the releases this version was tested "
            "on (0.10.1 to 0.12), so counts of FLOPs may raise and numbers may differ; for a "
            "tested set run pip install 'jax<0.13'.",
            stacklevel=3,
        )


check(jax.__version__)
