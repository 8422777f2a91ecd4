"""Figures with controls, from one definition: live with a kernel, drawn beforehand in the built page.

`@explore(rho=..., layer=...)` turns a drawing function into an `Explorer`. `module` is for figures that compute in the
page itself, beside a Python twin; `plurality_vote` and `layer_explorer` are two. `predict` asks the reader to draw the
curve first; `numeric_check` and `choice_check` ask questions. `publish` hands numbers to the prose.
"""

from nslab.explore.explorer import Control, Explorer, explore
from nslab.explore.frames import Frame
from nslab.explore.layers import layer_explorer
from nslab.explore.modules import Module, module
from nslab.explore.plurality import plurality_vote
from nslab.explore.predictions import predict
from nslab.explore.selfcheck import choice_check, numeric_check
from nslab.explore.truthtable import truth_table
from nslab.explore.values import publish

__all__ = [
    "Control",
    "Explorer",
    "Frame",
    "Module",
    "choice_check",
    "explore",
    "layer_explorer",
    "module",
    "numeric_check",
    "plurality_vote",
    "predict",
    "publish",
    "truth_table",
]
