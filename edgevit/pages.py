"""What edgevit's HTML pages have in common."""

from importlib.resources import files


def style(own: str) -> str:
    """A page's style: colours and habits of all pages, then its own rules."""
    return (files("edgevit") / "pages.css").read_text("utf-8") + own
