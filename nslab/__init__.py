"""nslab: a laboratory for the noise stability of Transformers.

Rooms are imported by name (``from nslab import boolean``); importing ``nslab`` itself loads none of them, so that
the command line and the book's builder start without waiting for torch.
"""

__version__ = "0.1.0"
