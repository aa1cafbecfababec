"""The sub-commands of `strop`, one file each; `strop.server.cli` puts them together."""
