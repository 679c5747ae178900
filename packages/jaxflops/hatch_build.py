"""Where the source is: in the checkout around this folder, or beside this file in an sdist."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Source(BuildHookInterface):
    """Add the source of the checkout; an sdist has it as the package ``jaxflops``."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Say which files go where."""
        here = Path(self.root)
        if (here / "jaxflops").is_dir():
            return
        checkout = here.parents[1]
        build_data["force_include"] |= {
            str(checkout / "sparsecode_jax" / "flops"): "jaxflops",
            str(checkout / "sparsecode_jax" / "py.typed"): "jaxflops/py.typed",
            str(checkout / "LICENSE"): "jaxflops/LICENSE",
        }
