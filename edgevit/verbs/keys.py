"""Whose engines and compiled libraries are opened here."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from edgevit import registry, render
from edgevit.verbs.help import Verbs
from edgevit.verbs.options import (
    Json,
)

keys = Verbs(
    name="keys",
    help="Whose engines and compiled libraries are opened here: this user's key and those of trusted builders.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

PublicKey = Annotated[str, typer.Argument(metavar="KEY", help="64 hex digits.", show_default=False)]


@keys.command("show", short_help="Show this user's public key and the trusted ones.")
def keys_show(json: Json = False) -> None:
    """Show the public key that signs what is built here, and those whose artifacts are opened here.

    Example: edgevit keys show
    """
    signing = _signing()
    own = signing.own_key()
    known = {own: "this user", **signing.known_keys()}
    if json:
        render.emit_json([{"key": key, "name": name} for key, name in known.items()])
        return
    render.table(("key", "whose"), list(known.items()))


@keys.command("trust", short_help="Open artifacts signed by this key from now on.")
def keys_trust(
    key: PublicKey,
    name: Annotated[str, typer.Option("--name", help="Whose key it is.")] = "a trusted builder",
    json: Json = False,
) -> None:
    """Open artifacts signed by this key from now on.

    Example: edgevit keys trust KEY --name build-server
    """
    _signing().trust_key(key, name)
    if json:
        render.emit_json({"key": key, "name": name, "trusted": True})
        return
    render.say(f"artifacts signed by {key[:16]}… ({name}) are opened here from now on")


@keys.command("forget", short_help="Trust this key no longer.")
def keys_forget(key: PublicKey, json: Json = False) -> None:
    """Trust this key no longer.

    Example: edgevit keys forget KEY
    """
    _signing().forget_key(key)
    if json:
        render.emit_json({"key": key, "trusted": False})
        return
    render.say(f"{key[:16]}… is trusted no longer")


def _signing() -> Any:

    registry.need("signing", ("cryptography",), "edgevit[signing]")
    from edgevit import signing

    return signing
