"""The keys of everything on the bus. Each begins with ``edgevit/v1/<cluster>``; a step never holds ``/ * $ ? #``.

live/<node>/<incarnation>                  announced last: the node is up
ready/<revision>/<part>/<node>/<inc>       announced: this part is loaded there and its key is served
infer/<revision>/<part>/<node>             asked: an image in, features (or logits) out
info/<node>                                asked: what the node is and holds
log/<node>                                 asked: its newest log lines
order/<node>/<verb>                        asked by operators and the controller: apply, drain, profile, …
place/<name>                               asked of every node: the placement it knows for a deployment
blob/<sha256>/<node>                       asked: a piece of a file
beat/<node>                                published every 500 ms: the node's figures
job/<node>/<id>                            published: progress of a remote measurement
control/<node>/<incarnation>               announced: may be elected controller
hello/<node>                               asked: its certificate, before it is asked anything else (sealed_bus)
ca/<verb>                                  asked: renewal of certificates
"""

from __future__ import annotations

import re

from edgevit.errors import UsageError

ROOT = "edgevit/v1"
CLUSTER = "default"
_STEP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def checked(kind: str, name: str) -> str:
    """``name`` if it can be one step of a key; UsageError otherwise."""
    if not _STEP.fullmatch(name):
        raise UsageError(
            f"{kind} {name!r} cannot be used in a fleet",
            hint="letters, digits, '.', '_' and '-', at most 64, beginning with a letter or digit",
        )
    return name


class Names:
    """The keys of one cluster. An argument left out becomes ``*``."""

    def __init__(self, cluster: str = CLUSTER) -> None:
        self.root = f"{ROOT}/{checked('cluster', cluster)}"

    def live(self, node: str = "*", incarnation: str = "*") -> str:
        return f"{self.root}/live/{node}/{incarnation}"

    def ready(self, revision: str = "*", part: str = "*", node: str = "*", incarnation: str = "*") -> str:
        return f"{self.root}/ready/{revision}/{part}/{node}/{incarnation}"

    def infer(self, revision: str, part: str, node: str) -> str:
        return f"{self.root}/infer/{revision}/{part}/{node}"

    def info(self, node: str = "*") -> str:
        return f"{self.root}/info/{node}"

    def log(self, node: str = "*") -> str:
        return f"{self.root}/log/{node}"

    def order(self, node: str, verb: str) -> str:
        return f"{self.root}/order/{node}/{verb}"

    def place(self, name: str = "*") -> str:
        return f"{self.root}/place/{name}"

    def blob(self, sha256: str, node: str = "*") -> str:
        return f"{self.root}/blob/{sha256}/{node}"

    def beat(self, node: str = "*") -> str:
        return f"{self.root}/beat/{node}"

    def job(self, node: str, id: str = "*") -> str:
        return f"{self.root}/job/{node}/{id}"

    def control(self, node: str = "*", incarnation: str = "*") -> str:
        return f"{self.root}/control/{node}/{incarnation}"

    def hello(self, node: str) -> str:
        return f"{self.root}/hello/{node}"

    def ca(self, verb: str) -> str:
        return f"{self.root}/ca/{verb}"

    def steps(self, key: str) -> tuple[str, ...]:
        """The steps of a key below the cluster: ("ready", revision, part, node, incarnation)."""
        return tuple(key.removeprefix(f"{self.root}/").split("/"))
