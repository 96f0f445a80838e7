"""What a placer is answered of each of its orders, where an installation answers order by order."""

from __future__ import annotations

from collections.abc import Sequence

from models.order import Order
from models.study import Study
from services.database.store import UnitOfWork
from services.hl7.er7 import Message
from services.hl7.order_reply import answer_with_orders


def with_orders(
    uow: UnitOfWork, message: Message, answers: Sequence[bytes], study: Study | None
) -> list[bytes]:
    """Return the answers to a message with what was done to each order in the application's.

    `study` is the first one that the message concerned; a sender that writes in its own way may
    have put the order's number elsewhere than in ORC-2.
    """
    single = sum(1 for _ in message.all("ORC")) == 1

    def known(number: str, authority: str) -> tuple[Order, Study] | None:
        if single and study is not None and study.order_id is not None:
            return uow.orders.get(study.order_id), uow.studies.get(study.id)
        order = uow.orders.find_by_placer(number, authority) if number else None
        found = uow.studies.find(order.study_uid) if order else None
        return (order, found) if order and found else None

    return [answer_with_orders(message, answer, known) for answer in answers]
