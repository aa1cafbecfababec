"""The kit: what strategies are written with. Strategy files import from here."""

from strop.strategies.kit.budget import Budget
from strop.strategies.kit.capabilities import Capabilities, Capability
from strop.strategies.kit.context import Context, Perform
from strop.strategies.kit.prompts import prompt
from strop.strategies.kit.run import Request, run
from strop.strategies.kit.strategy import Strategy, catalogue, find
from strop.strategies.kit.types import (
    Chat,
    Draft,
    Format,
    Message,
    Prefix,
    Sampling,
    Tokens,
    Tool,
    ToolCall,
    ToolChoice,
    Usage,
)

__all__ = [
    "Budget",
    "Capabilities",
    "Capability",
    "Chat",
    "Context",
    "Draft",
    "Format",
    "Message",
    "Perform",
    "Prefix",
    "Request",
    "Sampling",
    "Strategy",
    "Tokens",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "Usage",
    "catalogue",
    "find",
    "prompt",
    "run",
]
