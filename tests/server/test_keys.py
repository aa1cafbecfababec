import pytest

from strop.server.keys import Keyring, digest
from strop.server.settings import Key, Limits, Settings

SECRET = "a-long-random-key-123"


def test_without_keys_nobody_needs_one():
    assert not Keyring.of(Settings()).required


def test_a_key_opens_exactly_its_own_rights():
    ring = Keyring(
        [
            Key(sha256=digest("one"), tenant="a", strategies=("direct",), limits=Limits(tokens=10)),
            Key(sha256=digest("two"), tenant="b"),
        ]
    )
    assert ring.find("one").tenant == "a"
    assert ring.find("one").strategies == frozenset({"direct"})
    assert ring.find("one").limits.tokens == 10
    assert ring.find("two").strategies is None
    assert ring.find("three") is None
    assert ring.find(digest("one")) is None


def test_the_plain_key_of_simple_setups_is_only_kept_hashed():
    ring = Keyring.of(Settings(api_key=SECRET))
    assert ring.find(SECRET) is not None
    assert SECRET not in repr(vars(ring))
    assert SECRET not in repr(Settings(api_key=SECRET))


@pytest.mark.parametrize("weak", ["changeme", "EMPTY", "sk-xxx", "short", ""])
def test_placeholder_and_short_keys_are_refused(weak):
    with pytest.raises(ValueError, match="api_key"):
        Keyring.of(Settings(api_key=weak))


def test_an_empty_key_never_matches():
    assert Keyring.of(Settings(api_key=SECRET)).find("") is None
