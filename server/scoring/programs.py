"""Verifiers that run programs in the sandbox: tests of Python answers, and programs that check any answer."""

from __future__ import annotations

from dataclasses import dataclass

from strop.server.scoring.checks import text_of
from strop.server.scoring.sandbox import Ran, Sandbox
from strop.strategies.kit.errors import MissingCapability
from strop.strategies.kit.fan import fan_out
from strop.strategies.kit.ops import Verified, Verify
from strop.strategies.kit.steps import fences
from strop.strategies.kit.types import Verdict

MOST_CHARS = 65_536
"""Longest program."""

PYTHON = {"", "py", "python", "python3"}


@dataclass(frozen=True, slots=True)
class Programs:
    """`sandbox` is None where the operator did not switch it on: both verifiers then refuse."""

    sandbox: Sandbox | None = None

    async def python_tests(self, op: Verify) -> Verified:
        """Does the answer's Python code pass `spec["tests"]`, code that runs after it in the same namespace?

        The code is the answer's fenced Python blocks, or the whole text where it has none. Whatever is raised, an exit,
        or too long a run is a failed test; the evidence is the end of the output.
        """
        sandbox, tests = self._on(), text_of(op, "tests", MOST_CHARS)

        async def one(i: int) -> Verdict:
            ran = await sandbox.run([("<answer>", code_of(op.drafts[i].text)), ("<tests>", tests)])
            return Verdict(ran.ended == "done", "" if ran.ended == "done" else ran.output or "the program ended early")

        return Verified(tuple(await fan_out(one, len(op.drafts))))

    async def program(self, op: Verify) -> Verified:
        """Does `spec["program"]`, Python that reads the answer on stdin, accept it?

        Its end or exit code 0 accepts, a failed assertion or exit code 1 refuses with its output as the evidence;
        anything else, or too long a run, is no verdict.
        """
        sandbox, program = self._on(), text_of(op, "program", MOST_CHARS)

        async def one(i: int) -> Verdict:
            return _judged(await sandbox.run([("<program>", program)], op.drafts[i].text))

        return Verified(tuple(await fan_out(one, len(op.drafts))))

    def _on(self) -> Sandbox:
        if self.sandbox is None:
            raise MissingCapability("sandbox", "programs are switched off; the operator can set verifiers.sandbox")
        return self.sandbox


def code_of(text: str) -> str:
    """The Python of an answer: its closed fenced blocks that are Python or name no language, else all of it."""
    blocks = [block.body for block in fences(text) if block.closed and block.info.lower() in PYTHON]
    return "\n".join(blocks) if blocks else text


def _judged(ran: Ran) -> Verdict:
    match ran.ended:
        case "done":
            return Verdict(True)
        case "failed":
            return Verdict(False, ran.output)
        case _:
            return Verdict(None, ran.output)
