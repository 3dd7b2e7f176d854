"""The fleet's verbs: parse, call one function of this package, render. ``mount`` adds them to the command line."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast, get_type_hints

import typer

from edgevit import render
from edgevit.errors import UsageError

_UNITS = {"": 1.0, "s": 1.0, "ms": 1e-3}
_TIME = re.compile(r"(\d+(?:\.\d*)?)\s*(ms|s|)")

Listen = Annotated[
    list[str] | None,
    typer.Option("--listen", metavar="ENDPOINT", help="tls/HOST:PORT that others can reach this process at; repeat."),
]
Connect = Annotated[
    list[str] | None,
    typer.Option(
        "--connect", metavar="ENDPOINT", envvar="EDGEVIT_CONNECT", help="tls/HOST:PORT of a node or router; repeat."
    ),
]
IdentityDir = Annotated[
    Path | None,
    typer.Option("--identity", envvar="EDGEVIT_IDENTITY", help="Folder that edgevit enroll wrote. Needed for tls/…"),
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Plain tcp/… off this machine: anyone can read and order.")]
Cluster = Annotated[
    str, typer.Option("--cluster", envvar="EDGEVIT_CLUSTER", help="Fleets of different names do not see each other.")
]
RouterOnly = Annotated[
    bool,
    typer.Option(
        "--router-only", envvar="EDGEVIT_ROUTER_ONLY", help="This host reaches nobody but the router of --connect."
    ),
]
Wan = Annotated[bool, typer.Option("--wan", help="Over a link that loses packets: notice the dead after 5 s, not 1 s.")]
Where = Annotated[
    str | None,
    typer.Option(
        "--where", help="fleet or embedded (this process). Default: the fleet that serves it, if there is one."
    ),
]
Deadline = Annotated[str, typer.Option("--deadline", help="For each image, e.g. 200ms: then what arrived is fused.")]
Replicas = Annotated[int, typer.Option("--replicas", min=1, help="Copies of every sub-model, each on another node.")]
NodeName = Annotated[str, typer.Argument(metavar="NODE", show_default=False)]
Deployment = Annotated[
    str, typer.Argument(metavar="NAME", help="A deployment: see edgevit fleet status.", show_default=False)
]
Served = Annotated[
    Path, typer.Argument(metavar="BUNDLE|ARTIFACT", help="A bundle's folder, or an artifact's.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]

_WHICH: dict[str, tuple[Any, Any]] = {
    "connect": (Connect, None),
    "identity": (IdentityDir, None),
    "insecure": (Insecure, False),
    "cluster": (Cluster, "default"),
    "router_only": (RouterOnly, False),
}

fleet = typer.Typer(
    name="fleet",
    help="Look at the fleet, try one on this machine, and keep its certificates.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
ca = typer.Typer(
    name="ca",
    help="The fleet's private CA: who may be a node, router, client or operator.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
fleet.add_typer(ca, short_help="The fleet's private certificate authority.")


def mount(app: typer.Typer) -> None:
    """Add the fleet's verbs to ``app``."""
    for verb, help in _VERBS:
        app.command(short_help=help)(verb)
    app.add_typer(fleet, short_help="Status, logs, certificates, simulation of a fleet.")


def link_of(
    listen: list[str] | None = None,
    connect: list[str] | None = None,
    identity: Path | None = None,
    insecure: bool = False,
    cluster: str = "default",
    wan: bool = False,
    router_only: bool = False,
    mode: Any = "peer",
) -> Any:
    """The ``Link`` that these options ask for."""
    from edgevit.fleet.link import Link

    return Link(
        listen=tuple(listen or ()),
        connect=tuple(connect or ()),
        identity=identity,
        insecure=insecure,
        cluster=cluster,
        wan=wan,
        mode="client" if router_only else mode,
    )


def linked(verb: Callable[..., None]) -> Callable[..., None]:
    """``verb`` with the options that say which fleet, before its ``--json``: it is called with their ``link``."""
    hints = get_type_hints(verb, include_extras=True)
    signature = inspect.signature(verb)
    typed = {name: one.replace(annotation=hints[name]) for name, one in signature.parameters.items()}
    own = [one for name, one in typed.items() if name not in ("link", "json")]
    which = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=kind)
        for name, (kind, default) in _WHICH.items()
    ]
    last = [one for name, one in typed.items() if name == "json"]

    @functools.wraps(verb)
    def called(**given: Any) -> None:
        verb(link=link_of(**{name: given.pop(name) for name in _WHICH}), **given)

    parameters = [*own, *which, *last]
    vars(called)["__signature__"] = signature.replace(parameters=parameters)
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    return called


def seconds(option: str, text: str) -> float:
    """ "200ms", "1.5s" or a number of seconds; UsageError for anything else."""
    found = _TIME.fullmatch(text.strip())
    value = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not value > 0:
        raise UsageError(f"{option} {text!r} is not a time", hint=f"for example {option} 200ms")
    return value


# --- processes ---------------------------------------------------------------------------------------------------


def node(
    name: Annotated[str | None, typer.Option("--name", help="Default: the identity's name, else the host's.")] = None,
    listen: Listen = None,
    connect: Connect = None,
    memory: Annotated[
        str | None, typer.Option("--memory", help="For sub-models, e.g. 512MB. Default: half of what is free now.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Repeat for several.")] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Of one inference. Default: all cores.")
    ] = None,
    queue: Annotated[int, typer.Option("--queue", min=1, help="Questions that wait; more are refused as busy.")] = 8,
    macs_per_s: Annotated[
        str | None, typer.Option("--macs-per-s", help="What placement may reckon with, e.g. 6G. Default: unknown.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", metavar="HOST:PORT", help="Serve Prometheus there.")
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Open compiled parts that no known key signed.")] = False,
    identity: IdentityDir = None,
    insecure: Insecure = False,
    cluster: Cluster = "default",
    router_only: RouterOnly = False,
    wan: Wan = False,
) -> None:
    """Be a node: hold the sub-models that are deployed here, and answer with them. Ctrl-C withdraws it.

    Without --listen, --connect and --identity all stays on this machine, and nodes find each other by themselves.
    """
    from edgevit.amounts import parse_bytes
    from edgevit.fleet.node import NodeOptions, run_node

    run_node(
        NodeOptions(
            name=name,
            link=link_of(listen, connect, identity, insecure, cluster, wan, router_only),
            memory_bytes=None if memory is None else parse_bytes(memory),
            labels=_labels(label or []),
            threads=threads,
            queue=queue,
            metrics=metrics,
            trust=trust,
            macs_per_s=None if macs_per_s is None else _rate(macs_per_s),
        )
    )


def _rate(text: str) -> float:
    from edgevit.split.fleet_file import parse_rate  # and with it the profiles, 10 MB that a node has no use for

    return parse_rate(text)


def _labels(texts: list[str]) -> dict[str, str]:
    found = dict(text.split("=", 1) for text in texts if "=" in text)
    if len(found) != len(texts):
        raise UsageError("--label takes KEY=VALUE, each key once", hint="for example --label room=kitchen")
    return found


def router(
    listen: Listen = None,
    connect: Connect = None,
    identity: IdentityDir = None,
    insecure: Insecure = False,
    cluster: Cluster = "default",
    wan: Wan = False,
) -> None:
    """Be a site's router: nodes and clients --connect to it, and routers to each other. Ctrl-C ends it.

    Example: edgevit router --listen tls/0.0.0.0:7447 --identity router-1
    """
    from edgevit.fleet.router import run_router

    run_router(link_of(listen, connect, identity, insecure, cluster, wan, mode="router"))


@linked
def serve(
    link: Any,
    path: Served,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8080,
    host: Annotated[
        str, typer.Option("--host", help="0.0.0.0 lets everyone who reaches this machine use the model.")
    ] = "127.0.0.1",
    deadline: Deadline = "1s",
    in_flight: Annotated[int, typer.Option("--in-flight", min=1, help="Requests at a time; more get 503.")] = 16,
    where: Where = None,
    runtime: Annotated[str | None, typer.Option("--runtime", help="Of the model in this process.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Of the model in this process.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Open a compiled model that no known key signed.")] = False,
) -> None:
    """Serve a bundle or an artifact over HTTP: KServe's protocol at /v2, /metrics, /healthz, and a dashboard at /.

    Example: edgevit serve digits-bundle --port 8080
    """
    from edgevit.fleet.gateway.server import serve as run

    run(
        path, host=host, port=port, link=link, where=_where(where),
        deadline_s=seconds("--deadline", deadline), in_flight=in_flight, runtime=runtime, threads=threads, trust=trust,
    )  # fmt: skip


def _where(text: str | None) -> Any:
    if text not in (None, "fleet", "embedded"):
        raise UsageError(f"--where {text!r} is neither fleet nor embedded", hint="or leave it out")
    return text


# --- deployments -------------------------------------------------------------------------------------------------


@linked
def deploy(
    link: Any,
    path: Served,
    plan: Annotated[Path | None, typer.Option("--plan", help="What edgevit assign wrote.")] = None,
    fleet: Annotated[Path | None, typer.Option("--fleet", help="A fleet.toml: place it on these nodes.")] = None,
    replicas: Replicas = 1,
    name: Annotated[str | None, typer.Option("--name", help="Of the deployment. Default: the folder's.")] = None,
    json: Json = False,
) -> None:
    """Place a bundle or an artifact on the nodes that are alive: they pull, verify, load, then announce.

    Without --plan or --fleet it is planned over the nodes there are. What served before serves until the new one does.
    """
    from edgevit.fleet import deploy as deploying

    with render.progress(f"deploying {path}") as shown:
        result = deploying.deploy(
            path, link, plan=plan, fleet=fleet, replicas=replicas,
            name=name, on_progress=render.Rows(shown),
        )  # fmt: skip
    _show_deployed(result, json)


def _show_deployed(result: Any, json: bool) -> None:
    from edgevit.fleet.deploy import COLUMNS

    if json:
        render.emit_json(result.record())
        return
    render.table(COLUMNS, result.rows())
    for note in result.notes:
        render.say(note)
    render.say(result.summary())


@linked
def undeploy(link: Any, name: Deployment, json: Json = False) -> None:
    """Withdraw a deployment from all its nodes."""
    from edgevit.fleet.deploy import undeploy as run

    result = run(name, link)
    if json:
        render.emit_json(result.record())
        return
    render.say(f"{name} is withdrawn from {', '.join(result.told) or 'no node'}")


@linked
def rebalance(link: Any, name: Deployment, json: Json = False) -> None:
    """Plan a deployment anew over the nodes that are alive now, and move what gains by it."""
    from edgevit.fleet.deploy import rebalance as run

    with render.progress(f"rebalancing {name}") as shown:
        result = run(name, link, on_progress=render.Rows(shown))
    _show_deployed(result, json)


@linked
def drain(
    link: Any,
    node: NodeName,
    undo: Annotated[bool, typer.Option("--undo", help="Let it take sub-models again.")] = False,
    json: Json = False,
) -> None:
    """Move a node's sub-models elsewhere, and give it no new ones: before it is switched off."""
    from edgevit.fleet.deploy import drain as run

    with render.progress(f"draining {node}") as shown:
        result = run(node, link, undo=undo, on_progress=render.Rows(shown))
    if json:
        render.emit_json(result.record())
        return
    for note in result.notes:
        render.say(note)
    for part, source, goal in result.moved:
        print(f"{part}: {source} → {goal}")
    render.say(f"{node} holds nothing and takes nothing" if result.drained else f"{node} takes sub-models again")


@linked
def infer(
    link: Any,
    path: Served,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="PNG, JPEG, WebP, …", show_default=False)],
    deadline: Deadline = "1s",
    require_all: Annotated[bool, typer.Option("--require-all", help="Exit 9 when an answer is degraded.")] = False,
    where: Where = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many classes to show.")] = 5,
    labels: Annotated[Path | None, typer.Option("--labels", help="Class names, instead of the model's own.")] = None,
    json: Json = False,
) -> None:
    """Classify images with the fleet: scatter to the nodes, gather, fuse; with what arrived by the deadline.

    Where no fleet serves it, it runs in this process, as edgevit predict does, and says so.
    """
    from edgevit.errors import EdgeVitError
    from edgevit.fleet.infer import infer_images
    from edgevit.predict import Failure, read_labels

    found = infer_images(
        path, images, link=link,
        deadline_s=seconds("--deadline", deadline), require_all=require_all, where=_where(where), top=top,
        labels=read_labels(labels),
    )  # fmt: skip
    records: list[dict[str, Any]] = []
    failures, short = 0, None
    try:
        for result in found:
            failures += isinstance(result, Failure)
            records.append(result.record())
            for note in result.notes():
                render.say(note)
            if not json:
                (render.say if isinstance(result, Failure) else print)(result.line())
    except EdgeVitError as exc:
        short = exc
    if json:
        render.emit_json(records)
    if short:
        raise short
    if failures:
        raise typer.Exit(1)


# --- looking at it -----------------------------------------------------------------------------------------------


@fleet.command("status", short_help="Who is alive, what each runs, how fast.")
@linked
def status(link: Any, json: Json = False) -> None:
    """Who is alive, what each node runs, how fast it answers, and what a deployment lacks."""
    from edgevit.fleet import status as module

    found = module.status(link)
    if json:
        render.emit_json(found.record())
        return
    render.table(module.COLUMNS, found.rows())
    for line in found.lines():
        print(line)


@fleet.command("nodes", short_help="The machines: cores, memory, runtimes, versions.")
@linked
def nodes(link: Any, json: Json = False) -> None:
    """The machines behind the nodes: system, cores, memory, runtimes, versions, labels."""
    from edgevit.fleet import status as module

    found = module.status(link)
    if json:
        render.emit_json(found.record())
        return
    render.table(module.MACHINE_COLUMNS, found.machine_rows())


@fleet.command("top", short_help="Status, live.")
@linked
def top(
    link: Any,
    every: Annotated[str, typer.Option("--every", help="How often, e.g. 500ms.")] = "1s",
) -> None:
    """The status, again and again, until Ctrl-C."""
    from edgevit.fleet import status as module

    render.live(
        (module.COLUMNS, list(found.rows()), list(found.lines()))
        for found in module.top(link, every_s=seconds("--every", every))
    )


@fleet.command("logs", short_help="The newest log lines of all nodes.")
@linked
def logs(
    link: Any,
    nodes: Annotated[list[str] | None, typer.Argument(metavar="[NODE]…", help="Default: all.")] = None,
    lines: Annotated[int, typer.Option("-n", "--lines", min=1, help="Of each node.")] = 100,
    trace: Annotated[str | None, typer.Option("--trace", help="Only what is about this request.")] = None,
    json: Json = False,
) -> None:
    """The newest log lines of all nodes, or of those named, oldest first."""
    from edgevit.fleet import status as module

    found = module.logs(link, nodes or (), lines=lines, trace=trace)
    if json:
        render.emit_json(found.record())
        return
    for line in found.lines():
        print(line)


@fleet.command("simulate", short_help="What if: load, latency, accuracy when nodes die.")
def simulate(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", show_default=False)],
    fleet_file: Annotated[Path | None, typer.Option("--fleet", help="A fleet.toml with the devices.")] = None,
    plan: Annotated[Path | None, typer.Option("--plan", help="What edgevit assign wrote.")] = None,
    replicas: Replicas = 1,
    rate: Annotated[float, typer.Option("--rate", help="Images per second.")] = 1.0,
    lose: Annotated[list[str] | None, typer.Option("--lose", metavar="NODE", help="It is dead; repeat.")] = None,
    fail_probability: Annotated[
        float | None, typer.Option("--fail-probability", help="Share of the time that every node is down.")
    ] = None,
    json: Json = False,
) -> None:
    """What a fleet would do that need not exist: load of every node, latency, accuracy when nodes die."""
    from edgevit.fleet import simulate as module

    found = module.simulate(
        bundle, fleet=fleet_file, plan=plan, replicas=replicas, rate=rate, lose=lose or (),
        fail_probability=fail_probability,
    )  # fmt: skip
    if json:
        render.emit_json(found.record())
        return
    render.table(module.COLUMNS, found.rows())
    for line in found.lines():
        print(line)


@fleet.command("up", short_help="Try it: some nodes on this machine, and a bundle on them.")
def up(
    path: Served,
    count: Annotated[int, typer.Option("--nodes", min=1, help="Node processes to start.")] = 4,
    replicas: Replicas = 1,
) -> None:
    """Start nodes on this machine, deploy a bundle on them, and stay until Ctrl-C: for a first try."""
    from edgevit.fleet.up import fleet_up

    fleet_up(path, count, replicas=replicas)


# --- certificates ------------------------------------------------------------------------------------------------


@ca.command("init", short_help="Make the fleet's CA on this machine.")
def ca_init(
    days: Annotated[float | None, typer.Option("--days", help="How long the CA is good.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Forget the CA that is there.")] = False,
    json: Json = False,
) -> None:
    """Make the fleet's private CA on this machine, once. Its key stays here."""
    from edgevit.fleet import ca as module

    _said(module.init_ca(days or module.CA_DAYS, force=force), json)


@ca.command("serve", short_help="Renew certificates while it runs.")
def ca_serve(
    connect: Connect = None,
    listen: Listen = None,
    identity: IdentityDir = None,
    insecure: Insecure = False,
    cluster: Cluster = "default",
) -> None:
    """Renew the certificates of whoever asks and is not revoked, until Ctrl-C."""
    from edgevit.fleet.ending import until_told
    from edgevit.fleet.renewal import serve_ca

    with until_told() as stop:
        serve_ca(link_of(listen, connect, identity, insecure, cluster), stop=stop)


@ca.command("rotate", short_help="A new CA; the old one's certificates end now.")
def ca_rotate(
    days: Annotated[float | None, typer.Option("--days", help="How long the new CA is good.")] = None,
    json: Json = False,
) -> None:
    """Replace the CA, so that what the old one issued is worth nothing; says whom to enroll again, in which order."""
    from edgevit.fleet import ca as module

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
    """Make an identity for a device, on the machine with the CA: a folder to copy there."""
    from edgevit.fleet import ca as module

    trusted = dict.fromkeys(trust or (), "given at enrolment") or None
    _said(
        module.enroll(name, cast("Any", role), days=days, out=out, hosts=host or (), trusted=trusted, force=force), json
    )


def revoke(name: NodeName, json: Json = False) -> None:
    """Renew a device's certificate no more; says when the one it has ends."""
    from edgevit.fleet import ca as module

    _said(module.revoke(name), json)


def _said(result: Any, json: bool) -> None:
    if json:
        render.emit_json(result.record())
        return
    for line in result.lines():
        print(line)


_VERBS = (
    (node, "Be a node of a fleet: hold sub-models and answer."),
    (router, "Be a site's router."),
    (deploy, "Place a bundle or an artifact on the fleet."),
    (undeploy, "Withdraw a deployment."),
    (drain, "Empty a node before it is switched off."),
    (rebalance, "Plan a deployment anew over the nodes there are."),
    (infer, "Classify images with the fleet."),
    (serve, "Serve a model over HTTP, with a dashboard."),
    (enroll, "Make a device's identity."),
    (revoke, "Renew a device's certificate no more."),
)
