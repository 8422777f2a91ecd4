"""Figures with controls, from one definition: live with a kernel, drawn beforehand in the built page.

`@explore(rho=..., layer=...)` turns a drawing function into an `Explorer`. `module` is for figures that compute in the
page itself, beside a Python twin: `plurality_vote`, `layer_explorer`, `live_training` and `training_run` are such.
`predict` asks the reader to draw the curve first; `numeric_check` and `choice_check` ask questions. `publish` hands
numbers to the prose.
"""

from nslab.explore.explorer import Control, Explorer, explore
from nslab.explore.frames import Frame
from nslab.explore.layers import layer_explorer
from nslab.explore.modules import Module, module
from nslab.explore.plurality import plurality_vote
from nslab.explore.predictions import predict
from nslab.explore.recorded_runs import RecordedRun, training_run
from nslab.explore.selfcheck import choice_check, numeric_check
from nslab.explore.training_in_page import live_training
from nslab.explore.truthtable import truth_table
from nslab.explore.values import publish

__all__ = [
    "Control",
    "Explorer",
    "Frame",
    "Module",
    "RecordedRun",
    "choice_check",
    "explore",
    "layer_explorer",
    "live_training",
    "module",
    "numeric_check",
    "plurality_vote",
    "predict",
    "publish",
    "training_run",
    "truth_table",
]
