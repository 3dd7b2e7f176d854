"""What runs on nodes: agents, routers, deployments, and questions to them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from edgevit import render
from edgevit.errors import UsageError
from edgevit.verbs.help import of_fleet, of_running, of_splitting
from edgevit.verbs.links import (
    Cluster,
    Connect,
    Deadline,
    Deployment,
    IdentityDir,
    Insecure,
    Listen,
    NodeName,
    Replicas,
    RouterOnly,
    Served,
    Wan,
    Where,
    link_of,
    linked,
    seconds,
)
from edgevit.verbs.options import Force, Json
from edgevit.verbs.predicting import (
    CsvFile,
    Every,
    Fps,
    Frames,
    JsonLinesFile,
    Labels,
    Named,
    Out,
    Top,
    deliver,
    inputs_of,
    wanted_of,
)

Name = Annotated[str | None, of_fleet("--name", help="Default: the identity's name, else the host's.")]
Memory = Annotated[
    str | None, of_fleet("--memory", help="For sub-models, e.g. 512MB. Default: half of what is free now.")
]
Label = Annotated[list[str] | None, of_fleet("--label", metavar="KEY=VALUE", help="Repeat for several.")]
Threads = Annotated[int | None, of_running("--threads", min=1, help="Of one inference. Default: all cores.")]
Queue = Annotated[int, of_running("--queue", min=1, help="Questions that wait; more are refused as busy.")]
MacsPerS = Annotated[
    str | None, of_fleet("--macs-per-s", help="What placement may reckon with, e.g. 6G. Default: unknown.")
]
Metrics = Annotated[str | None, of_running("--metrics", metavar="HOST:PORT", help="Serve Prometheus there.")]
Trust = Annotated[bool, of_running("--trust", help="Open compiled parts that no known key signed.")]


def node(
    name: Name = None,
    listen: Listen = None,
    connect: Connect = None,
    memory: Memory = None,
    label: Label = None,
    threads: Threads = None,
    queue: Queue = 8,
    macs_per_s: MacsPerS = None,
    metrics: Metrics = None,
    trust: Trust = False,
    identity: IdentityDir = None,
    insecure: Insecure = False,
    cluster: Cluster = "default",
    router_only: RouterOnly = False,
    wan: Wan = False,
    json: Json = False,
) -> None:
    """Be a node: hold the sub-models that are deployed here, and answer with them. Ctrl-C withdraws it.

    Without --listen, --connect and --identity all stays on this machine, and nodes find each other by themselves.

    Example: edgevit node --name kitchen --memory 512MB
    """
    from edgevit.amounts import parse_bytes
    from edgevit.fleet.agent.node import NodeOptions, run_node

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
            events=sys.stdout if json else None,
        )
    )


def _rate(text: str) -> float:
    from edgevit.bundle.fleet_file import parse_rate  # and with it the profiles, 10 MB that a node has no use for

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
    json: Json = False,
) -> None:
    """Be a site's router: nodes and clients --connect to it, and routers to each other. Ctrl-C ends it.

    Example: edgevit router --listen tls/0.0.0.0:7447 --identity router-1
    """
    from edgevit.fleet.agent.router import run_router

    run_router(link_of(listen, connect, identity, insecure, cluster, wan, mode="router"), tell=render.telling(json))


@linked
def serve(
    link: Any,
    path: Served,
    port: Annotated[int, of_running("--port", min=0, max=65535, help="0 takes a free one.")] = 8080,
    host: Annotated[
        str, of_running("--host", help="0.0.0.0 lets everyone who reaches this machine use the model.")
    ] = "127.0.0.1",
    deadline: Deadline = "1s",
    in_flight: Annotated[int, of_running("--in-flight", min=1, help="Requests at a time; more get 503.")] = 16,
    where: Where = None,
    runtime: Annotated[str | None, of_running("--runtime", help="Of the model in this process.")] = None,
    threads: Annotated[int | None, of_running("--threads", min=1, help="Of the model in this process.")] = None,
    trust: Annotated[bool, of_running("--trust", help="Open a compiled model that no known key signed.")] = False,
    private: Annotated[bool, of_running("--private", help="Only for this user, and whoever has the token.")] = False,
    allow_host: Annotated[
        list[str] | None, of_running("--allow-host", metavar="NAME", help="A name browsers know it by; repeat.")
    ] = None,
    json: Json = False,
) -> None:
    """Serve a bundle or an artifact over HTTP: KServe's protocol at /v2, /metrics, /healthz, and a dashboard at /.

    Example: edgevit serve digits-bundle --port 8080
    """
    from edgevit.fleet.gateway.server import serve as run

    run(
        path, host=host, port=port, link=link, where=_where(where),
        deadline_s=seconds("--deadline", deadline), in_flight=in_flight, runtime=runtime, threads=threads, trust=trust,
        private=private, allow_hosts=allow_host or (), tell=render.telling(json),
    )  # fmt: skip


def _where(text: str | None) -> Any:
    if text not in (None, "fleet", "embedded"):
        raise UsageError(f"--where {text!r} is neither fleet nor embedded", hint="or leave it out")
    return text


@linked
def deploy(
    link: Any,
    path: Served,
    plan: Annotated[Path | None, of_fleet("--plan", help="What edgevit assign wrote.")] = None,
    fleet: Annotated[Path | None, of_splitting("--fleet", help="A fleet.toml: place it on these nodes.")] = None,
    replicas: Replicas = 1,
    name: Annotated[str | None, of_fleet("--name", help="Of the deployment. Default: the folder's.")] = None,
    json: Json = False,
) -> None:
    """Place a bundle or an artifact on the nodes that are alive: they pull, verify, load, then announce.

    Without --plan or --fleet it is planned over the nodes there are. What served before serves until the new one does.

    Example: edgevit deploy digits-bundle --replicas 2
    """
    from edgevit.fleet.operating import deploy as deploying

    with render.progress(f"deploying {path}") as shown:
        result = deploying.deploy(
            path, link, plan=plan, fleet=fleet, replicas=replicas,
            name=name, on_progress=render.Rows(shown),
        )  # fmt: skip
    _show_deployed(result, json)


def _show_deployed(result: Any, json: bool) -> None:
    from edgevit.fleet.operating.deploy import COLUMNS

    if json:
        render.emit_json(result.record())
        return
    render.table(COLUMNS, result.rows())
    for note in result.notes:
        render.say(note)
    render.say(result.summary())


@linked
def undeploy(link: Any, name: Deployment, json: Json = False) -> None:
    """Withdraw a deployment from all its nodes.

    Example: edgevit undeploy digits-bundle
    """
    from edgevit.fleet.operating.deploy import undeploy as run

    result = run(name, link)
    if json:
        render.emit_json(result.record())
        return
    for note in result.notes:
        render.say(note)
    render.say(f"{name} is withdrawn from {', '.join(result.told) or 'no node'}")


@linked
def rebalance(link: Any, name: Deployment, json: Json = False) -> None:
    """Plan a deployment anew over the nodes that are alive now, and move what gains by it.

    Example: edgevit rebalance digits-bundle
    """
    from edgevit.fleet.operating.deploy import rebalance as run

    with render.progress(f"rebalancing {name}") as shown:
        result = run(name, link, on_progress=render.Rows(shown))
    _show_deployed(result, json)


@linked
def drain(
    link: Any,
    node: NodeName,
    undo: Annotated[bool, of_fleet("--undo", help="Let it take sub-models again.")] = False,
    json: Json = False,
) -> None:
    """Move a node's sub-models elsewhere, and give it no new ones: before it is switched off.

    Example: edgevit drain kitchen
    """
    from edgevit.fleet.operating.deploy import drain as run

    with render.progress(f"draining {node}") as shown:
        result = run(node, link, undo=undo, on_progress=render.Rows(shown))
    if json:
        render.emit_json(result.record())
        return
    for note in result.notes:
        render.say(note)
    for part, source, goal in result.moved:
        render.line(f"{part}: {source} → {goal}")
    render.say(f"{node} holds nothing and takes nothing" if result.drained else f"{node} takes sub-models again")


RequireAll = Annotated[bool, of_fleet("--require-all", help="Exit 9 when an answer is degraded.")]


@linked
def infer(
    link: Any,
    path: Served,
    inputs: Named,
    deadline: Deadline = "1s",
    require_all: RequireAll = False,
    where: Where = None,
    top: Top = 5,
    labels: Labels = None,
    every: Every = None,
    fps: Fps = None,
    frames: Frames = None,
    csv: CsvFile = None,
    jsonl: JsonLinesFile = None,
    out: Out = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Ask the fleet about pictures: scatter to the nodes, gather, fuse; with what arrived by the deadline. A single
    artifact answers by its task, and -o FOLDER draws what can be seen.

    Where no fleet serves it, it runs in this process, as edgevit predict does, and says so.

    Example: edgevit infer digits-bundle photo.jpg --deadline 200ms
    """
    from edgevit.fleet.asking.infer import infer_images, table_of
    from edgevit.prediction.labels import read_labels

    wanted = wanted_of(csv, jsonl, out, json=json, force=force)
    wanted.check(inputs)
    if wanted.npz is not None:
        raise UsageError(
            f"-o {wanted.npz}: a fleet's answers go to tables and pictures", hint="edgevit predict keeps outputs"
        )
    deadline_s, place = seconds("--deadline", deadline), _where(where)
    columns, draws = table_of(path, top)
    wanted.require_seen(draws)
    named = inputs_of(inputs, every, fps, frames)
    found = infer_images(
        path, named, link=link, deadline_s=deadline_s, require_all=require_all, where=place, top=top,
        labels=read_labels(labels),
    )  # fmt: skip
    deliver(found, wanted, named, columns)


VERBS = (
    (node, "Be a node of a fleet: hold sub-models and answer."),
    (router, "Be a site's router."),
    (serve, "Serve a model over HTTP, with a dashboard."),
    (deploy, "Place a bundle or an artifact on the fleet."),
    (undeploy, "Withdraw a deployment."),
    (rebalance, "Plan a deployment anew over the nodes there are."),
    (drain, "Empty a node before it is switched off."),
    (infer, "Ask the fleet about pictures and videos."),
)
