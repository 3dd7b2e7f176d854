"""A look at the fleet, and one to try on this machine."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from edgevit import render
from edgevit.verbs.help import Verbs
from edgevit.verbs.links import (
    Replicas,
    Served,
    linked,
    seconds,
)
from edgevit.verbs.options import Json

fleet = Verbs(
    name="fleet",
    help="Look at the fleet, try one on this machine, and keep its certificates.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@fleet.command("status", short_help="Who is alive, what each runs, how fast.")
@linked
def status(link: Any, json: Json = False) -> None:
    """Who is alive, what each node runs, how fast it answers, and what a deployment lacks.

    Example: edgevit fleet status
    """
    from edgevit.fleet.operating import status as module
    from edgevit.fleet.operating.rows import COLUMNS

    found = module.status(link)
    if json:
        render.emit_json(found.record())
        return
    render.table(COLUMNS, found.rows())
    for line in found.lines():
        render.line(line)


@fleet.command("nodes", short_help="The machines: cores, memory, runtimes, versions.")
@linked
def nodes(link: Any, json: Json = False) -> None:
    """The machines behind the nodes: system, cores, memory, runtimes, versions, labels.

    Example: edgevit fleet nodes
    """
    from edgevit.fleet.operating import status as module
    from edgevit.fleet.operating.rows import MACHINE_COLUMNS

    found = module.status(link)
    if json:
        render.emit_json(found.record())
        return
    render.table(MACHINE_COLUMNS, found.machine_rows())


@fleet.command("top", short_help="Status, live.")
@linked
def top(
    link: Any,
    every: Annotated[str, typer.Option("--every", help="How often, e.g. 500ms.")] = "1s",
    json: Json = False,
) -> None:
    """The status, again and again, until Ctrl-C.

    Example: edgevit fleet top --every 500ms
    """
    from edgevit.fleet.operating import status as module
    from edgevit.fleet.operating.rows import COLUMNS

    frames = module.top(link, every_s=seconds("--every", every))
    if json:
        with suppress(KeyboardInterrupt):
            for found in frames:
                render.tell_json("status", " ".join(found.lines()), nodes=found.record())
        return
    render.live((COLUMNS, list(found.rows()), list(found.lines())) for found in frames)


@fleet.command("logs", short_help="The newest log lines of all nodes.")
@linked
def logs(
    link: Any,
    nodes: Annotated[list[str] | None, typer.Argument(metavar="[NODE]…", help="Default: all.")] = None,
    lines: Annotated[int, typer.Option("-n", "--lines", min=1, help="Of each node.")] = 100,
    trace: Annotated[str | None, typer.Option("--trace", help="Only what is about this request.")] = None,
    json: Json = False,
) -> None:
    """The newest log lines of all nodes, or of those named, oldest first.

    Example: edgevit fleet logs kitchen -n 20
    """
    from edgevit.fleet.operating import node_logs as module

    found = module.logs(link, nodes or (), lines=lines, trace=trace)
    if json:
        render.emit_json(found.record())
        return
    for line in found.lines():
        render.line(line)


@fleet.command("simulate", short_help="What if: load, latency, accuracy when nodes die.")
def simulate(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", show_default=False, readable=False)],
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
    """What a fleet would do that need not exist: load of every node, latency, accuracy when nodes die.

    Example: edgevit fleet simulate digits-bundle --fleet examples/fleet.toml --lose kitchen
    """
    from edgevit.fleet.operating import simulate as module

    found = module.simulate(
        bundle, fleet=fleet_file, plan=plan, replicas=replicas, rate=rate, lose=lose or (),
        fail_probability=fail_probability,
    )  # fmt: skip
    if json:
        render.emit_json(found.record())
        return
    render.table(module.COLUMNS, found.rows())
    for line in found.lines():
        render.line(line)


@fleet.command("up", short_help="Try it: some nodes on this machine, and a bundle on them.")
def up(
    path: Served,
    count: Annotated[int, typer.Option("--nodes", min=1, help="Node processes to start.")] = 4,
    replicas: Replicas = 1,
    json: Json = False,
) -> None:
    """Start nodes on this machine, deploy a bundle on them, and stay until Ctrl-C: for a first try.

    Example: edgevit fleet up digits-bundle --nodes 4
    """
    from edgevit.fleet.operating.up import fleet_up

    fleet_up(path, count, replicas=replicas, tell=render.telling(json))
