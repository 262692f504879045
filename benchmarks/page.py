"""The house's one HTML page: its style, and tables whose shares are coloured."""

from __future__ import annotations

import html
from collections.abc import Sequence

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2433; --soft: #5c6577; --line: #d9dee8; --paper: #ffffff; --mark: #2458d3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9f0; --soft: #9aa4b8; --line: #333c4d; --paper: #141922; --mark: #8fb0ff; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1180px; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p, .soft { color: var(--soft); } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td:first-child { white-space: nowrap; } th:first-child, td:first-child, td.text, .prose th, .prose td { text-align: left; } th { font-weight: 600; border-bottom-width: 2px; }
.wide { overflow-x: auto; } img { max-width: 100%; background: #fff; border-radius: 6px; border: 1px solid var(--line); }
.pass { color: #1a7f47; font-weight: 600; } .fail { color: #c0392b; font-weight: 600; } .gone { color: #c0392b; } .kept { color: #1a7f47; }
.heat td { text-align: center; } .heat td:first-child { text-align: left; }
.heat td.cell { background: color-mix(in srgb, #c0392b calc(var(--leak) * 70%), transparent); }
code { font-size: .88em; } .grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(360px, 1fr)); gap: 1rem; }
"""


def render_page(title: str, body: Sequence[str]) -> str:
    """Wrap HTML in the house's one page."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def render_table(header: Sequence[str], lines: Sequence[Sequence[str]], *, heat: tuple[int, int] = (0, 0)) -> str:
    """Return an HTML table; cells are escaped. Columns of the half-open range `heat` hold shares, and are coloured by them."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)

    def render_cell(place: int, cell: str) -> str:
        if heat[0] <= place < heat[1] and cell.replace(".", "").isdigit():
            return f'<td class="cell" style="--leak:{cell}">{cell}</td>'
        return f"<td>{html.escape(cell)}</td>"

    rows = "".join("<tr>" + "".join(render_cell(*entry) for entry in enumerate(line)) + "</tr>" for line in lines)
    kind = ' class="heat"' if heat[1] else ""
    return f'<div class="wide"><table{kind}><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def render_marks(text: str) -> str:
    """Turn the Markdown of a summary line, bold names and code, into HTML."""
    for mark, tag in (("**", "b"), ("`", "code")):
        parts = text.split(mark)
        text = "".join(f"<{tag}>{part}</{tag}>" if place % 2 else part for place, part in enumerate(parts))
    return text
