"""The fleet's private CA: who may be a node, router, client or operator."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from edgevit import render
from edgevit.verbs.help import Verbs
from edgevit.verbs.links import (
    Cluster,
    Connect,
    IdentityDir,
    Insecure,
    Listen,
    NodeName,
    link_of,
)
from edgevit.verbs.options import Json

ca = Verbs(
    name="ca",
    help="The fleet's private CA: who may be a node, router, client or operator.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@ca.command("init", short_help="Make the fleet's CA on this machine.")
def ca_init(
    days: Annotated[float | None, typer.Option("--days", help="How long the CA is good.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Forget the CA that is there.")] = False,
    json: Json = False,
) -> None:
    """Make the fleet's private CA on this machine, once. Its key stays here.

    Example: edgevit fleet ca init
    """
    from edgevit.fleet.trust import ca as module

    _said(module.init_ca(days or module.CA_DAYS, force=force), json)


@ca.command("serve", short_help="Renew certificates while it runs.")
def ca_serve(
    connect: Connect = None,
    listen: Listen = None,
    identity: IdentityDir = None,
    insecure: Insecure = False,
    cluster: Cluster = "default",
    json: Json = False,
) -> None:
    """Renew the certificates of whoever asks and is not revoked, until Ctrl-C.

    Example: edgevit fleet ca serve --listen tls/0.0.0.0:7448
    """
    from edgevit.fleet.agent.ending import until_told
    from edgevit.fleet.bus.logs import Log
    from edgevit.fleet.trust.serving import serve_ca

    with until_told() as stop:
        log = Log("ca", sys.stdout if json else None)
        serve_ca(link_of(listen, connect, identity, insecure, cluster), stop=stop, log=log)


@ca.command("rotate", short_help="A new CA; the old one's certificates end now.")
def ca_rotate(
    days: Annotated[float | None, typer.Option("--days", help="How long the new CA is good.")] = None,
    json: Json = False,
) -> None:
    """Replace the CA, so that what the old one issued is worth nothing; says whom to enroll again, in which order.

    Example: edgevit fleet ca rotate
    """
    from edgevit.fleet.trust import ca as module

    _said(module.rotate(days or module.CA_DAYS), json)


def enroll(
    name: NodeName,
    role: Annotated[str | None, typer.Option("--role", help="node (default), router, client or operator.")] = None,
    days: Annotated[float | None, typer.Option("--days", help="How long the certificate is good. Default: 7.")] = None,
    host: Annotated[
        list[str] | None, typer.Option("--host", help="Another name or address that it is reached under; repeat.")
    ] = None,
    trust: Annotated[
        list[str] | None, typer.Option("--trust", metavar="KEY", help="An operator whose orders it takes; repeat.")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The identity folder to write.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Although it has a certificate that is good.")] = False,
    json: Json = False,
) -> None:
    """Make an identity for a device, on the machine with the CA: a folder to copy there.

    Example: edgevit enroll kitchen --host 192.168.1.20
    """
    from edgevit.fleet.trust import ca as module

    trusted = dict.fromkeys(trust or (), "given at enrolment") or None
    _said(
        module.enroll(name, cast("Any", role), days=days, out=out, hosts=host or (), trusted=trusted, force=force), json
    )


def revoke(name: NodeName, json: Json = False) -> None:
    """Renew a device's certificate no more; says when the one it has ends.

    Example: edgevit revoke kitchen
    """
    from edgevit.fleet.trust import ca as module

    _said(module.revoke(name), json)


def _said(result: Any, json: bool) -> None:
    if json:
        render.emit_json(result.record())
        return
    for line in result.lines():
        render.line(line)


VERBS = (
    (enroll, "Make a device's identity."),
    (revoke, "Renew a device's certificate no more."),
)
