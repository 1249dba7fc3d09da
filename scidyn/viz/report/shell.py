"""What every report shares: one HTML document with its style inside, made of titled sections."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from scidyn.viz.report.markup import Markup, tag

__all__ = ["document", "section"]


def document(name: str, lead: str, sections: Sequence[Markup | None]) -> str:
    """The whole page: title, a line below it, and the sections that are not None."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="generator", content="scidyn"),
        tag("title", name),
        tag("style", Markup(files("scidyn.viz.report").joinpath("report.css").read_text(encoding="utf-8"))),
    )
    top = tag("header", tag("p", "scidyn report", class_="kind"), tag("h1", name), tag("p", lead, class_="lead"))
    body = tag("body", tag("main", top, *(s for s in sections if s is not None)))
    return f'<!doctype html>\n<html lang="en">{head}{body}</html>\n'


def section(key: str, name: str, *children: str | None) -> Markup:
    """A titled part of the page."""
    return tag("section", tag("h2", name, id=f"{key}-heading"), *children, id=key, aria_labelledby=f"{key}-heading")
