import pytest

from strop.server.quota import Quotas, RateLimited
from strop.server.settings import Key
from strop.strategies.kit.events import Bill, Finished, Outcome
from strop.strategies.kit.types import Usage


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def quotas(clock):
    return Quotas([Key(sha256="0" * 64, tenant="a", tokens_per_minute=600), Key(sha256="1" * 64, tenant="b")], clock)


def spend(quotas, tenant, tokens):
    quotas.observer(tenant)(Finished(Outcome((), "gone", bill=Bill(Usage(completion=tokens)))))


def test_a_tenant_pays_what_it_generated_and_waits_when_it_overdrew(quotas, clock):
    quotas.admit("a")
    spend(quotas, "a", 700)
    with pytest.raises(RateLimited) as limited:
        quotas.admit("a")
    assert limited.value.retry_after == pytest.approx(10.1)
    clock.now += limited.value.retry_after
    quotas.admit("a")


def test_a_bucket_never_holds_more_than_a_minute(quotas, clock):
    clock.now += 3600
    assert quotas.standing("a").remaining == 600
    spend(quotas, "a", 600)
    assert quotas.standing("a").reset == pytest.approx(60)


def test_tenants_without_a_limit_are_never_stopped(quotas):
    spend(quotas, "b", 10**9)
    quotas.admit("b")
    assert quotas.standing("b") is None


def test_tenants_do_not_pay_for_each_other(quotas):
    spend(quotas, "b", 10**6)
    assert quotas.standing("a").remaining == 600
