"""Draw the two pictures that live outside the pages: the mark and the README's figure. Run: ``python book/draw.py``."""

from pathlib import Path

import torch

from nslab import boolean as bf
from nslab import style

STATIC = Path(__file__).parent / "_static"


def mark(rho: float = 0.75) -> str:
    """The mark: the Walsh-Hadamard matrix of three bits, each character shrunk by the noise, to rho to its degree.

    Row ``S``, column ``x``: a square of side ``rho**|S|``, blue where the character is +1, vermilion where it is -1.
    """
    signs = bf.wht(torch.eye(8, dtype=torch.float64))
    squares = []
    for row in range(8):
        side = 7.2 * rho ** row.bit_count()
        for column in range(8):
            colour = style.BLUE if signs[row, column] > 0 else style.VERMILION
            x, y = 8 * column + (8 - side) / 2, 8 * row + (8 - side) / 2
            place = f'x="{x:.2f}" y="{y:.2f}" width="{side:.2f}" height="{side:.2f}"'
            squares.append(f'<rect {place} rx="{side / 6:.2f}" fill="{colour}"/>')
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64" width="64" height="64" role="img">'
    return "\n".join([head, *squares, "</svg>"]) + "\n"


def readme() -> str:
    """The README's figure: how much of an answer survives noise on every input, and what depth does to it."""
    rho = torch.linspace(0, 1, 101, dtype=torch.float64)
    families = {"a dictator": bf.dictator(15), "majority of 15": bf.majority(15), "parity of 15": bf.parity(15)}
    with style.drawing():
        fig, (left, right) = style.figure((8.6, 3.1), columns=2, margins={"wspace": 0.8})
        for name, table in families.items():
            left.plot(rho, bf.stability(table.double(), rho), label=name)
        left.set(
            xlim=(0, 1), ylim=(-0.03, 1.03), xlabel="correlation ρ of the inputs", ylabel="correlation of the answers"
        )
        left.set_title("noise on everything at once")
        left.legend(loc="upper left")
        for start in (0.99, 0.9, 0.6):
            path = [start]
            for _ in range(8):
                path.append(0.75 * path[-1] + 0.25 * path[-1] ** 3)
            right.plot(range(9), path, marker="o", label=f"inputs at ρ = {start:g}")
        right.set(xlim=(-0.2, 8.2), ylim=(-0.03, 1.03), xlabel="layers of three-member committees", ylabel="")
        right.set_title("and then depth")
        right.legend(loc="upper right")
        text = (
            style.svg(fig, "readme")
            .replace("currentColor", "#24292f")
            .replace("var(--ns-font, sans-serif)", "sans-serif")
        )
    card = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return text.replace('class="ns-svg">', f'role="img" aria-label="{README_ALT}">{card}', 1) + "\n"


README_ALT = (
    "Left: the correlation of the answers against the correlation of the inputs, for a dictator, a majority and a "
    "parity of 15 bits. Right: the correlation after each layer of a tower of committees falls, faster with more noise."
)
PICTURES = {"mark.svg": mark, "readme.svg": readme}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (STATIC / name).write_text(draw(), encoding="utf-8")
