"""Figures of the house itself, beside the limits it keeps: sizes, circles, rooms, comments.

    python benchmarks/house_figures.py

``tests/test_architecture.py`` holds the package to the limits in ``LIMITS``; the rest is printed to be looked at.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

import numpy as np

PACKAGE = Path(__file__).parents[1] / "edgevit"
DOOR = ("edgevit.export", "edgevit.build")  # `edgevit.export` is callable: its one lazy door, with a test of its own
NUMERICS = ("export/tvm/schedules", "models/layers", "models/reparam", "proof", "profiles/statistics.py")

# figure -> the largest value that the house allows itself
LIMITS = {
    "longest file": 500,
    "files p50": 120,
    "functions p95": 20,
    "modules in a circle": 0,
    "most folders in a folder": 10,
}


@dataclass(frozen=True)
class Source:
    """One file of the package, read and parsed.

    name  ``edgevit.room.file``, a package's name for its ``__init__``
    """

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        return len(self.text.splitlines())


def sources(root: Path = PACKAGE) -> list[Source]:
    """Every Python file below the package ``root``."""
    found = []
    for path in sorted(root.rglob("*.py")):
        name = ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text("utf-8")
        found.append(Source(name, path, text, ast.parse(text)))
    return found


def functions(found: list[Source]) -> Iterator[tuple[str, int]]:
    """(where, lines) of every function, from its name to its end."""
    for source in found:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{source.name}.{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1


def imports(source: Source, known: set[str]) -> set[str]:
    """Our modules that a file imports anywhere: under TYPE_CHECKING and inside functions too."""
    found: set[str] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & known or {node.module}
    return found & known


def circle(found: list[Source]) -> list[str]:
    """The modules of one circle of imports, [] where there is none."""
    known = {source.name for source in found}
    graph = {source.name: imports(source, known) for source in found}
    graph.get(DOOR[0], set()).discard(DOOR[1])
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def comment_share(found: list[Source]) -> float:
    """Comments beside or above code, as a share of all lines; directives for tools do not count."""
    comments = 0
    for source in found:
        for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
            directive = token.string.startswith(("# type:", "# noqa", "# fmt:", "# ---"))
            comments += token.type == tokenize.COMMENT and not directive
    return comments / max(1, sum(source.lines for source in found))


def figures(found: list[Source]) -> dict[str, float]:
    """What is held to ``LIMITS``, by the same names."""
    files = [source.lines for source in found if source.lines > 1]
    return {
        "longest file": max(files),
        "files p50": median(files),
        "functions p95": int(np.quantile([lines for _, lines in functions(found)], 0.95, method="inverted_cdf")),
        "modules in a circle": len(circle(found)),
        "most folders in a folder": max(folders(found).values()),
    }


def folders(found: list[Source]) -> Counter[str]:
    """How many sub-packages each package but the root holds (the root's are the rooms of the design)."""
    packages = {source.path.parent for source in found} - {PACKAGE}
    inner = Counter(str(path.parent.relative_to(PACKAGE)) for path in packages if path.parent != PACKAGE)
    return inner or Counter({".": 0})


def main() -> None:
    found = sources()
    print(f"{len(found)} files, {sum(source.lines for source in found):,} lines")
    for name, value in figures(found).items():
        print(f"{name:28} {value:>8g}   at most {LIMITS[name]}")
    long = sorted(functions(found), key=lambda one: -one[1])[:5]
    print("longest functions           ", ", ".join(f"{name} {lines}" for name, lines in long))
    rooms = Counter(str(source.path.parent.relative_to(PACKAGE.parent)) for source in found)
    print("modules per room            ", ", ".join(f"{room} {count}" for room, count in rooms.most_common(5)))
    numerics = [one for one in found if str(one.path.relative_to(PACKAGE)).startswith(NUMERICS)]
    shares = (100 * comment_share(numerics), 100 * comment_share(found))
    print("comments in numerics         {:>7.1f}%   of all code {:.1f}%".format(*shares))


if __name__ == "__main__":
    main()
