"""What the supervisor and Ray's side say to each other, and when it is the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tri_serve.fleet.order import EngineOrder
from tri_serve.fleet.ray.messages import EngineNews, GatewayOrder, digest, roster_digest
from tri_serve.fleet.state import ErrorState, ReplicaPhase, ReplicaState
from tri_serve.gateway.config import GatewayConfig, ReplicaAddress
from tri_serve.spec.models import Spec

KEY = "engine-key-that-nobody-may-see"
ORDER = EngineOrder(
    spec=Spec.model_validate({"model": {"source": "tiny:bf16", "served_name": "tri-tiny"}}),
    engine_key=KEY,
    number=1,
)
GATEWAY = GatewayOrder(
    config=GatewayConfig(
        release="tri", served_models=("m",), admin_socket=Path("/run/admin.sock"), engine_key=KEY
    ),
    host="127.0.0.1",
    port=8000,
)


@pytest.mark.parametrize("order", [ORDER, GATEWAY])
def test_an_order_survives_the_way_and_is_still_the_same(order: EngineOrder | GatewayOrder) -> None:
    arrived = type(order).model_validate_json(order.model_dump_json())
    assert arrived == order
    assert digest(arrived) == digest(order)


@pytest.mark.parametrize("change", [{"again": 1}, {"number": 2}, {"replicas_here": 2}, {"host": "node"}])
def test_another_order_has_another_digest(change: dict[str, object]) -> None:
    assert digest(ORDER.model_copy(update=change)) != digest(ORDER)


def test_another_socket_is_another_order() -> None:
    assert digest(GATEWAY.model_copy(update={"socket_number": 1})) != digest(GATEWAY)


@pytest.mark.parametrize("order", [ORDER, GATEWAY])
def test_an_order_may_be_logged_by_accident(order: EngineOrder | GatewayOrder) -> None:
    assert KEY not in repr(order)
    assert KEY not in str(order)


def test_a_roster_differs_by_who_drains() -> None:
    entry = ReplicaAddress(name="replica-0", host="127.0.0.1", port=1)
    draining = entry.model_copy(update={"draining": True})
    assert roster_digest((entry,)) == roster_digest((entry.model_copy(),))
    assert len({roster_digest(()), roster_digest((entry,)), roster_digest((draining,))}) == 3


def test_news_keep_their_error_on_the_way() -> None:
    news = EngineNews(
        version=3,
        instance="a",
        digest="b",
        state=ReplicaState(name="replica-0", phase=ReplicaPhase.WAITING, since=1.0, log="/log"),
        error=ErrorState(message="no kernel", log_tail=("last words",)),
    )
    assert EngineNews.model_validate(news.model_dump(mode="json")) == news
