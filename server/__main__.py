"""`python -m strop.server` is `strop`."""

from strop.server.cli import main

main()
