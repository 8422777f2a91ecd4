"""`publish`: numbers that a cell computes and the prose around it quotes with the ``{val}`` role."""

from IPython.display import display

_PREFIX = "application/papermill.record/"


def publish(**values: object) -> None:
    """Hand numbers to the chapter's prose: after ``publish(gain=g)`` write ``{val}`gain:.3f``` in the text.

    In the built book nothing is shown where the cell stands, and the role prints the number. With a kernel the cell
    prints ``gain = 0.412``, so that a runner sees what the text will say.

    Raises:
        TypeError: a value is neither a number nor a string; take ``.item()`` of a tensor first.
    """
    for name, value in values.items():
        if not isinstance(value, (int, float, str)):
            raise TypeError(
                f"publish: {name} is a {type(value).__name__}; give an int, float or str (tensors: .item())"
            )
        key = {"scrapbook": {"name": name, "mime_prefix": _PREFIX}}
        display({f"{_PREFIX}text/plain": repr(value), "text/plain": f"{name} = {value}"}, raw=True, metadata=key)
