"""HTML that escapes: a string is text, only :class:`Markup` passes as it is."""

from __future__ import annotations

from html import escape

__all__ = ["Markup", "tag"]

_VOID = frozenset({"meta", "br", "hr", "col"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, *children: str | None, **attributes: str | None) -> Markup:
    """An element; children and attribute values are escaped unless they are :class:`Markup`.

    A trailing underscore in an attribute's name is dropped and others become hyphens
    (``class_``, ``aria_label``); attributes and children that are None are left out.
    """
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{pairs}>")
    body = "".join(c if isinstance(c, Markup) else escape(str(c), quote=False) for c in children if c is not None)
    return Markup(f"<{name}{pairs}>{body}</{name}>")
