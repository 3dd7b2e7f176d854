"""What ``edgevit info`` says of weights that are stored in few bits."""

from __future__ import annotations

from typing import Any

from edgevit.info import stored_as
from edgevit.quantize.plan import Layer, Range


def layer(**changed: Any) -> Layer:
    given = {"operator": "linear", "modules": ("head",), "input": Range(low=0, high=1), "output": None}
    return Layer(**{**given, "scales": (0.5,), **changed})


def test_ways_to_store_weights_are_counted_the_most_frequent_first() -> None:
    eight, groups = layer(), layer(bits=4, group=32)
    table = layer(bits=4, palette=(0.0, 0.5))
    assert stored_as([eight, groups, table, groups]) == (
        "2 weights in 4 bits with a scale for every 32 inputs of an output channel, "
        "1 weights in 8 bits with a scale for each output channel, 1 weights by a table of 2 numbers"
    )
