"""nslab: a laboratory for the noise stability of Transformers.

Rooms are imported by name (``from nslab import boolean``); importing ``nslab`` itself loads none of them, so that
the command line and the book's builder start without waiting for torch. ``nslab.boolean`` loads the room when named.
"""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    from importlib import import_module
    from importlib.util import find_spec

    if name.startswith("_") or find_spec(f"nslab.{name}") is None:
        raise AttributeError(f"nslab has no room {name!r}: help(nslab) lists them")
    return import_module(f"nslab.{name}")
