"""The CA on the bus: certificates renewed for whoever asks."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.errors import EdgeVitError
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.logs import Log
from edgevit.fleet.bus.messages import BadMessage
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.transport import Question, take_or_refuse
from edgevit.fleet.trust import ca
from edgevit.fleet.trust.authority import ca_folder, open_ca
from edgevit.fleet.trust.certificates import fingerprint
from edgevit.fleet.trust.identity import (
    open_identity,
    utc_now,
)

if TYPE_CHECKING:
    pass

from edgevit.fleet.trust.renewal import MAX_REQUEST, Renewals
from edgevit.fleet.trust.renewing_bus import open_renewing_bus

QUEUE = 64  # requests that wait


def serve_ca(link: Link, *, stop: threading.Event | None = None, log: Log | None = None) -> None:
    """Renew certificates for whoever asks on the bus, until ``stop``. Every issue and refusal is logged.

    Without an identity it enrolls itself, as the operator ``ca.OWN``. FleetError when there is no CA on this machine.
    """
    open_ca()
    stop, log = stop or threading.Event(), log or Log("ca")
    if link.identity is None:
        link = replace(link, identity=_own_identity())
    if link.connect and not link.listen:
        link = replace(link, mode="client")  # whoever is linked to that router can ask
    asked: queue.Queue[Question] = queue.Queue(QUEUE)
    renewals = Renewals()

    with contextlib.closing(open_renewing_bus(link, "operator", "ca")) as bus:
        bus.serve(Names(link.cluster).ca("renew"), partial(take_or_refuse, asked))
        log.info("serving", ca=str(ca_folder()))
        for question in _until(stop, asked):
            _answer(question, renewals, log)
    log.info("ended")


def _own_identity() -> Path:
    """The identity of ``ca serve``, enrolled anew unless it is one of the present CA and good for a while."""
    folder = ca.identity_folder(ca.OWN)
    with contextlib.suppress(EdgeVitError):
        identity = open_identity(folder, role="operator")
        current = open_ca().issued().nodes.get(ca.OWN)
        if current and fingerprint(identity.certificate) in current.certificates and utc_now() < identity.renewed_at:
            return folder
    return ca.enroll(ca.OWN, "operator", force=True).folder


def _until(stop: threading.Event, asked: queue.Queue[Question]) -> Iterator[Question]:
    while not stop.is_set():
        with contextlib.suppress(queue.Empty):
            yield asked.get(timeout=0.2)


def _answer(question: Question, renewals: Renewals, log: Log) -> None:
    try:
        if question.size > MAX_REQUEST:
            raise BadMessage(f"a request of {question.size} bytes")
        name, renewal, ends = renewals.answer(question.payload())
    except EdgeVitError as exc:
        log.refusal("refused", reason=str(exc))
        question.refuse(str(exc))
        return
    except Exception as exc:  # a fault here must not end the service for all others
        log.warning("failed", error=repr(exc))
        question.refuse("failed")
        return
    log.info("renewed", name=name, until=ends.isoformat())
    question.answer(renewal.encode())
    question.finish()
