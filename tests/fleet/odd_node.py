"""A node that serves infer keys and behaves as it is told, well or badly. It is no edgevit node: no model, no queue.

    python odd_node.py NAME REVISION PART[,PART] BEHAVIOUR [FEATURES]

Every part answers (rows, FEATURES) float32, all of the number that its name ends with. A behaviour:

    good                answers at once             slow:MS     answers after so many milliseconds
    shape, dtype, nan   answers with what is wrong  replay      answers with the id of the question before
    twice               answers every question twice
    busy, broken        refuses                     silent      finishes without an answer
    mute                takes questions, and never says anything
    half                takes every second question, and is mute to the others
    tokenless           is served and live, but does not announce its parts
    once-silent         finishes the first question without an answer, and is good from then on

It prints "up" when it can be asked, takes another behaviour from each line of its stdin, and ends with that.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from queue import SimpleQueue

import numpy as np

from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.names import Names
from edgevit.fleet.bus.opening import open_bus
from edgevit.fleet.bus.transport import Question


class OddNode:
    def __init__(self, name: str, revision: str, parts: list[str], behaviour: str, features: int) -> None:
        self.behaviour, self.features = behaviour, features
        self.bus, names = open_bus(Link(), "node", name), Names()
        self.work: SimpleQueue[tuple[float, str, Question]] = SimpleQueue()
        self.before = "0" * 16
        self.asked = 0
        self.kept: list[Question] = []
        threading.Thread(target=self.serve, daemon=True).start()
        incarnation = f"i{os.getpid()}"
        self.declared = [
            self.bus.serve(
                names.infer(revision, part, name), lambda one, part=part: self.work.put((time.monotonic(), part, one))
            )
            for part in parts
        ]
        if behaviour != "tokenless":
            self.declared += [self.bus.announce(names.ready(revision, part, name, incarnation)) for part in parts]
        self.declared.append(self.bus.announce(names.live(name, incarnation)))

    def serve(self) -> None:
        while True:
            arrived, part, question = self.work.get()
            self.asked += 1
            does, _, value = self.behaviour.partition(":")
            if does == "slow":
                time.sleep(max(0.0, arrived + float(value) / 1e3 - time.monotonic()))
            try:
                self.answer(part, question, does)
            except Exception as exc:
                question.refuse(f"{type(exc).__name__}: {exc}")

    def answer(self, part: str, question: Question, does: str) -> None:
        asked = json.loads(question.meta)
        rows = asked["tensor"]["shape"][0] if asked["kind"] == "tensor" else 1
        shape = (rows, self.features + (does == "shape"))
        array = np.full(shape, int(part.rpartition("-")[2]), np.float64 if does == "dtype" else np.float32)
        if does == "nan":
            array[0, 0] = np.nan
        id, self.before = asked["id"], asked["id"]
        if does == "mute" or (does == "half" and self.asked % 2):
            self.kept.append(question)
        elif does in ("busy", "broken"):
            question.refuse("busy" if does == "busy" else "RuntimeError: broken")
        elif does == "silent" or (does == "once-silent" and self.asked == 1):
            question.finish()
        else:
            said = {"dtype": array.dtype.name, "shape": array.shape}
            if does == "replay":
                id = "0" * 16
            meta = json.dumps({"id": id, "tensor": said, "queue_ms": 0.1, "compute_ms": 0.2}).encode()
            for _ in range(2 if does == "twice" else 1):
                question.answer(array.tobytes(), meta)
            question.finish()


def main() -> None:
    name, revision, parts, behaviour = sys.argv[1:5]
    node = OddNode(name, revision, parts.split(","), behaviour, int(sys.argv[5]) if len(sys.argv) > 5 else 8)
    print("up", flush=True)
    for line in sys.stdin:
        node.behaviour = line.strip()
        print("changed", flush=True)


if __name__ == "__main__":
    main()
