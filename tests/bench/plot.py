"""Line plots as SVG by hand: panels side by side, both axes logarithmic. Greys and colours of middle lightness on no
background, so that they read on light pages and dark ones."""

import math
from collections import namedtuple
from xml.sax.saxutils import escape

Line = namedtuple("Line", "name color dash points")
Panel = namedtuple("Panel", "title x_label lines")

COLORS = ["#4C8BF5", "#E4782A", "#2FA37C", "#C65BB0", "#A08A20", "#8A6BE0"]
GREY, FAINT = "#808080", "#80808040"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 380, 66, 20, 88, 52


def nice(value):
    """A number as short as it can be said."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def ticks(low, high):
    """1, 2, 5 of each decade from low to high."""
    return [step * 10 ** decade for decade in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            for step in (1, 2, 5) if low <= step * 10 ** decade * 1.0001 and step * 10 ** decade <= high * 1.0001]


def bounds(values):
    """The 1, 2, 5 steps around values."""
    wide = ticks(min(values) / 10, max(values) * 10)
    return max(t for t in wide if t <= min(values)), min(t for t in wide if t >= max(values))


def text(x, y, what, anchor="middle", size=12, extra=""):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{GREY}"{extra}>'
            f"{escape(what)}</text>")


def draw_panel(panel, offset):
    xs = sorted({x for line in panel.lines for x, _ in line.points})
    low, high = bounds([y for line in panel.lines for _, y in line.points if y > 0])
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at_x(x):
        span = math.log(xs[-1] / xs[0]) if len(xs) > 1 else 1
        return offset + LEFT + inner_width * math.log(x / xs[0]) / span

    def at_y(y):
        return TOP + inner_height * (1 - math.log(max(y, low) / low) / math.log(high / low))

    out = [text(offset + LEFT, TOP - 14, panel.title, "start", 13)]
    for tick in ticks(low, high):
        out.append(f'<path d="M{offset + LEFT} {at_y(tick):.1f}H{offset + WIDTH - RIGHT}" stroke="{FAINT}"/>')
        out.append(text(offset + LEFT - 8, at_y(tick) + 4, nice(tick), "end"))
    for x in xs:
        out.append(f'<path d="M{at_x(x):.1f} {HEIGHT - BOTTOM}v5" stroke="{GREY}"/>')
        out.append(text(at_x(x), HEIGHT - BOTTOM + 19, str(x)))
    out.append(f'<path d="M{offset + LEFT} {HEIGHT - BOTTOM}H{offset + WIDTH - RIGHT}" stroke="{GREY}"/>')
    out.append(text(offset + LEFT + inner_width / 2, HEIGHT - 10, panel.x_label))
    for line in panel.lines:
        color = COLORS[line.color % len(COLORS)]
        path = "L".join(f"{at_x(x):.1f} {at_y(y):.1f}" for x, y in line.points)
        dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
        out.append(f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>')
        out += [f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3" fill="{color}"/>' for x, y in line.points]
    return out


def draw(title, command, panels, names):
    width = WIDTH * len(panels)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT}" width="{width}" height="{HEIGHT}" '
           'font-family="system-ui, sans-serif" role="img">',
           f"<title>{escape(title)}</title>", f"<desc>Made by: {escape(command)}</desc>",
           text(LEFT, 24, title, "start", 15, ' font-weight="600"')]
    for number, name in enumerate(names):
        x = LEFT + number * (width - LEFT) / max(len(names), 4)
        out.append(f'<path d="M{x:.1f} 46h22" stroke="{COLORS[number % len(COLORS)]}" stroke-width="3"/>')
        out.append(text(x + 28, 50, name, "start"))
    for number, panel in enumerate(panels):
        out += draw_panel(panel, number * WIDTH)
    return "\n".join(out) + "\n</svg>\n"
