"""Whose announcements a client believes."""

from __future__ import annotations

from edgevit.fleet.asking.belief import Belief, Token
from edgevit.fleet.bus.messages import Placement

OLD, NEW = "1" * 64, "2" * 64


def order(epoch, nodes, *, revision=NEW, step=0, taken=None, name="flowers"):
    return Placement(
        name=name, kind="bundle", revision=revision, release="0" * 64, epoch=epoch, step=step, given=nodes,
        hosts=("a", "b", "c"), nodes={**nodes, **(taken or {})}, key="0" * 64, signature=f"{epoch:0128x}",
    )  # fmt: skip


def token(part, node, revision=NEW):
    return Token(revision, part, node, "i")


def test_a_key_counts_where_an_order_gives_the_part_to_its_node():
    belief = Belief()
    assert belief.token(token("part-0", "a"), True) == []
    assert belief.token(token("part-0", "rogue"), True) == []
    assert belief.doubts(token("part-0", "a"))
    assert belief.learned([order(1, {"a": ("part-0",)})]) == [(token("part-0", "a"), True)]
    assert belief.doubtful()
    assert belief.token(token("part-1", "a"), True) == []
    assert belief.token(token("part-0", "a", OLD), True) == []
    assert belief.token(token("part-0", "a"), False) == [(token("part-0", "a"), False)]


def test_who_took_a_part_over_counts_while_nobody_serves_it_who_was_given_it():
    belief = Belief()
    belief.learned([order(1, {"a": ("part-0",)}, step=1, taken={"b": ("part-0",)})])
    assert belief.token(token("part-0", "b"), True) == [(token("part-0", "b"), True)]
    back = belief.token(token("part-0", "a"), True)
    assert back == [(token("part-0", "b"), False), (token("part-0", "a"), True)]
    assert belief.token(token("part-0", "a"), False) == [(token("part-0", "a"), False), (token("part-0", "b"), True)]


def test_what_ran_before_counts_until_there_are_two_newer_orders():
    belief = Belief()
    before, newer = order(1, {"a": ("part-0",)}, revision=OLD), order(2, {"b": ("part-0",)})
    belief.learned([newer, before])
    assert belief.token(token("part-0", "a", OLD), True) == [(token("part-0", "a", OLD), True)]
    assert belief.token(token("part-0", "b"), True) == [(token("part-0", "b"), True)]
    assert belief.learned([order(3, {"c": ("part-0",)})]) == [(token("part-0", "a", OLD), False)]


def test_of_two_nodes_that_know_of_different_takeovers_both_are_heard():
    belief = Belief()
    given = {"a": ("part-0",)}
    belief.learned([order(1, given, step=1, taken={"b": ("part-0",)})])
    belief.learned([order(1, given, step=2, taken={"c": ("part-0",)})])
    assert belief.token(token("part-0", "b"), True)
    assert belief.token(token("part-0", "c"), True)
    assert not belief.doubtful()
