"""Figures as inline SVG whose colours follow the page, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

from scidyn.viz.report.markup import Markup, tag
from scidyn.viz.style import GRID, INK, MUTED, PAPER, SERIES, STREAM, quiet_settings

__all__ = ["figure_block", "inline_svg"]

_THEME = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--paper",
    STREAM: "--stream",
    **{shade: f"--series-{k}" for k, shade in enumerate(SERIES)},
}


def figure_block(key: str, draw: Callable[..., Any], *, alt: str, caption: str) -> Markup:
    """A ``<figure>`` with the drawing, its description for screen readers, and its caption."""
    from matplotlib.figure import Figure

    with quiet_settings():
        canvas = Figure(layout="constrained")
        draw(ax=canvas)
        svg = inline_svg(canvas, key, alt)
    scroll = tag("div", svg, class_="plot", tabindex="0", role="group", aria_label=f"{key} figure")
    return tag("figure", scroll, tag("figcaption", caption), id=f"figure-{key}")


def inline_svg(figure: Any, key: str, alt: str) -> Markup:
    """The figure as an SVG element: real text, unique ids, no outside names, colours as CSS variables."""
    import matplotlib as mpl

    content = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": key}):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{key}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{key}-\1)", body)
    body = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{key}-\1"', body)
    body = re.sub(r"#[0-9a-f]{6}\b", lambda m: f"var({_THEME[m[0]]})" if m[0] in _THEME else m[0], body)
    body = re.sub(r"font(?:-family)?: [^;\"]*'DejaVu Sans'[^;\"]*", _page_font, body)
    title = tag("title", alt, id=f"{key}-alt")
    opening = f'<svg {box[0] if box else ""} role="img" aria-labelledby="{key}-alt">'
    return Markup(f"{opening}{title}{body.strip()}")


def _page_font(match: re.Match[str]) -> str:
    """A font declaration with the page's own family, in matplotlib's long or short form."""
    return re.sub(r"'DejaVu Sans'.*", "var(--sans)", match[0])
