"""A tokenizer without a vocabulary file: a token is a piece of at most four characters, its id spells the piece.

Pieces are runs of letters, digits, signs or blanks, a leading space belongs to the piece after it, and characters
outside printable ASCII stand alone. The same piece always has the same id, and ids decode without any table:
id = 16 + sum of code(character k) * 98**k for ASCII pieces, 16 + 98**4 + code point for the others. Id 0 ends a turn.
"""

from __future__ import annotations

import re
from functools import lru_cache

from strop.strategies.kit.errors import BadRequest
from strop.strategies.kit.types import Tokens

END = 0
"""The end-of-turn token; its text is empty."""
VOCABULARY = 32_768
"""What entropies and certainties pretend to be the size of the vocabulary."""

_ALPHABET = "\t\n" + "".join(map(chr, range(32, 127)))
_BASE = len(_ALPHABET) + 1
_FIRST = 16
_SINGLE = _FIRST + _BASE**4
_SIGNS = r"!-/:-@\[-`{-~"
_PIECE = re.compile(
    r" [A-Za-z]{1,3}|[A-Za-z]{1,4}| [0-9]{1,3}|[0-9]{1,4}"
    rf"| [{_SIGNS}]{{1,3}}|[{_SIGNS}]{{1,4}}|\n{{1,4}}|[ \t]{{1,4}}|.",
    re.DOTALL,
)


def pieces(text: str) -> list[str]:
    """The texts of the tokens; joined they are the text."""
    return _PIECE.findall(text)


def count(text: str) -> int:
    """How many tokens a text has."""
    return len(_PIECE.findall(text))


def ids_of(text: str) -> tuple[int, ...]:
    """Token ids of a text."""
    return tuple(map(id_of, _PIECE.findall(text)))


def tokens_of(text: str) -> Tokens:
    """Ids and texts."""
    found = _PIECE.findall(text)
    return Tokens(tuple(map(id_of, found)), tuple(found))


@lru_cache(maxsize=65_536)
def id_of(piece: str) -> int:
    """The id of one piece."""
    if len(piece) == 1 and piece not in _ALPHABET:
        return _SINGLE + ord(piece)
    id_ = 0
    for character in reversed(piece):
        id_ = id_ * _BASE + _ALPHABET.index(character) + 1
    return _FIRST + id_


def text_of(id_: int) -> str:
    """The text of one token; `BadRequest` for an id that stands for nothing."""
    if id_ == END:
        return ""
    if _SINGLE <= id_ <= _SINGLE + 0x10FFFF:
        return chr(id_ - _SINGLE)
    rest, characters = id_ - _FIRST, ""
    while rest > 0 and len(characters) < 4:
        rest, code = divmod(rest, _BASE)
        if code == 0:
            break
        characters += _ALPHABET[code - 1]
    if rest != 0 or not characters:
        raise BadRequest(f"{id_} is not a token of the simulated model", param="prompt", code="invalid_token_id")
    return characters


def decoded(ids: tuple[int, ...]) -> str:
    """The text of many tokens."""
    return "".join(map(text_of, ids))
