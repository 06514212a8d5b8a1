"""How all pictures look, and how they become files.

Nothing here or beside it touches `matplotlib.pyplot`: figures belong to the caller, and are gone when
dropped.
"""

import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

from autotrain_env.errors import unknown_name

# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#767676"


def as_image(figure: Figure, kind: str = "png") -> bytes:
    """Returns a figure as the content of an image file.

    Args:
        figure: The figure.
        kind: Ending of the file, such as `"png"` or `"pdf"`.

    Raises:
        InvalidValueError: If the kind is not known.
    """
    check_image_kind("kind", kind)
    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else None
    figure.savefig(buffer, format=kind, dpi=120, metadata=metadata)
    return buffer.getvalue()


def check_image_kind(argument: str, kind: str, *further: str) -> None:
    """Raise an `InvalidValueError` unless a figure can be written as a file with this ending.

    Args:
        argument: Name of the argument that was given the ending.
        kind: The ending.
        further: Endings that are allowed, too.
    """
    known = {*FigureCanvasAgg.get_supported_filetypes(), *further}
    if kind not in known:
        raise unknown_name(argument, kind, known)


def tidy(axes: Axes) -> None:
    """Give axes faint horizontal lines and no box, as all pictures have."""
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def make_figure(figure: Figure | SubFigure | None, size: tuple[float, float]) -> Figure | SubFigure:
    """Returns the figure to draw into, laid out so that nothing overlaps."""
    if figure is None:
        return Figure(figsize=size, dpi=100, layout="constrained")
    if isinstance(figure, Figure) and figure.get_layout_engine() is None:
        figure.set_layout_engine("constrained")
    return figure


def whole_figure(figure: Figure | SubFigure) -> Figure:
    """Returns the figure that a subfigure is part of, or the figure itself."""
    whole = figure.get_figure(root=True)
    assert isinstance(whole, Figure)
    return whole
