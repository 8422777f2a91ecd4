"""How the positions of a sequence listen to one another: multi-head attention, and what it is made of.

    from nslab.attention import Attention, attend
    heads = attend(query, key, value, causal=True)

`standard` is the attention of every network of the book that is not said to have another one.
"""

from nslab.attention.standard import EXPLICIT, LOOKS, Attended, Attention, Rotary, attend, attend_explicitly

__all__ = ["EXPLICIT", "LOOKS", "Attended", "Attention", "Rotary", "attend", "attend_explicitly"]
