"""What strop adds to vLLM's worker: `worker_extension_cls` appends this class to the worker's bases, and one
`collective_rpc("strop_install")` after the boot wraps the model runner of every worker.

Runs inside vLLM's own processes. Nothing here may raise into vLLM: an exception there ends the engine for everybody.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class StropExtension:
    """Mixed into vLLM's worker; `__init__` is never called, so state is made in `strop_install`."""

    model_runner: Any

    def strop_install(self, server: int) -> dict[str, Any]:
        """Wrap the model runner. Says which runner it is, and why if it could not be wrapped.

        `server` is the process that owns the engine; this one ends when it does.
        """
        from strop.server.engine.vllm.hook_v1 import V1Hook
        from strop.server.engine.vllm.hook_v2 import V2Hook

        end_with(server)
        runner = self.model_runner
        hook = V2Hook(runner) if V2Hook.fits(runner) else V1Hook(runner)
        try:
            hook.install()
        except Exception as misfit:  # boundary: an unknown vLLM serves without token statistics, and says so
            log.exception("the hooks do not fit this vLLM")
            return {"runner": hook.name, "installed": False, "why": f"{type(misfit).__name__}: {misfit}"}
        self.strop_hook = hook
        return {"runner": hook.name, "installed": True, "why": ""}

    def strop_counts(self) -> dict[str, int]:
        """Rows measured, and rows that could not be."""
        hook = getattr(self, "strop_hook", None)
        return {"measured": 0, "failed": 0} if hook is None else {"measured": hook.measured, "failed": hook.failed}


def end_with(server: int) -> None:
    """Kill this process when `server`, an ancestor of it, is gone: vLLM's own processes would stay behind, with the
    memory of the GPU, when the server is killed. Does nothing on other systems than Linux and on other machines.
    """
    if not hasattr(os, "pidfd_open") or server not in ancestors(os.getpid()):
        return
    watched = os.pidfd_open(server)

    def watch() -> None:
        select.select([watched], [], [])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="strop-end-with-server", daemon=True).start()


def ancestors(process: int) -> list[int]:
    """The parents of a process, nearest first, as far as this machine knows them."""
    found: list[int] = []
    while process > 1:
        try:
            stat = Path(f"/proc/{process}/stat").read_text()
        except OSError:
            return found
        process = int(stat.rpartition(")")[2].split()[1])
        found.append(process)
    return found
