"""The report as one page: table, plots and their library in one file that asks nothing of the network.

The browser enforces that: the page's content security policy allows two scripts by their hash, and no request at all.
"""

from __future__ import annotations

import base64
import datetime
import gzip
import hashlib
import json
from functools import cache
from importlib.resources import files
from string import Template

from edgevit import registry
from edgevit.pages import style
from edgevit.profiles.report import beside, fastest, headline, sections
from edgevit.profiles.report.collect import Collection
from edgevit.profiles.report.groups import groups_of
from edgevit.profiles.report.markup import Markup, join, tag


def render(found: Collection, *, title: str | None = None, now: datetime.datetime) -> str:
    """The page. MissingDependency without plotly, whose script is packed into it."""
    library = _plotly()
    script = _own("page.js")
    groups, plots = groups_of(found.rows), sections.Plots()
    parts = [
        ("table", "Results", join(headline.findings(found, groups), headline.table(found, groups))),
        ("trade-offs", "Trade-offs", sections.trade_offs(found, groups, plots)),
        ("distributions", "Distributions", sections.distributions(groups, plots) if groups else None),
        ("measurements", "Measurements over time", sections.measurements(groups, plots) if groups else None),
        ("layers", "Where the milliseconds went", sections.layers(found, groups, plots)),
        ("beside", "Model and artifact", beside.section(found.rows)),
        ("environment", "Environment", sections.environments(groups)),
        ("provenance", "Provenance", sections.provenance(found)),
        ("left-out", "Left out", _problems(found)),
        ("fastest", "Which is fastest?", fastest.section(found.rankings, plots)),
        ("terms", "How to read this", sections.terms()),
    ]
    shown = [(name, heading, body) for name, heading, body in parts if body]
    links = [tag("li", tag("a", heading, href=f"#{name}")) for name, heading, _ in shown]
    body = [tag("section", tag("h2", heading), body, id=name) for name, heading, body in shown]
    return Template(_own("page.html")).substitute(
        policy=_policy(script, library),
        title=_title(found, title),
        written=tag("time", f"{now:%Y-%m-%d %H:%M} UTC", datetime=now.isoformat(timespec="seconds")),
        edgevit=tag("span", f"edgevit {registry.version_of('edgevit')}"),
        style=style(_own("page.css")),
        links=join(*links),
        sections=join(*body),
        figures=_json(plots.figures),
        library=base64.b64encode(gzip.compress(library.encode(), 9, mtime=0)).decode(),
        script=script,
    )


def _title(found: Collection, title: str | None) -> Markup:
    models = list(dict.fromkeys(row.manifest.model.name for row in found.rows if row.manifest))
    if title:
        return join(title)
    named = ", ".join(models[:4]) + (f" and {len(models) - 4} more" if len(models) > 4 else "")
    return join(named or "edgevit report")


def _problems(found: Collection) -> Markup | None:
    return tag("ul", *(tag("li", problem) for problem in found.problems)) if found.problems else None


def _policy(*scripts: str) -> Markup:
    """Only these scripts run, only styles of the page apply, nothing is requested and no form is sent."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts
    )
    return join(
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        "form-action 'none'"
    )


def _json(value: object) -> str:
    """JSON that may stand in a script element: nothing in it can end the element or begin a comment."""
    dumped = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    escapes = (("&", "\\u0026"), ("<", "\\u003c"), (">", "\\u003e"), ("\u2028", "\\u2028"), ("\u2029", "\\u2029"))
    for char, escaped in escapes:
        dumped = dumped.replace(char, escaped)
    return dumped


@cache
def _own(name: str) -> str:
    return files("edgevit.profiles.report").joinpath(name).read_text("utf-8")


@cache
def _plotly() -> str:
    registry.need("the report's page", ("plotly",), "edgevit[report]")
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).replace("\r\n", "\n")
