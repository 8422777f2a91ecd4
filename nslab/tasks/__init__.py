"""What experiments are made of: tasks whose every answer, and noise stability, is known; and an electorate.

from nslab.tasks import ModularArithmetic, split_pairs
task = ModularArithmetic(113)
split = split_pairs(task, 0.3, "unordered", generator=torch.Generator().manual_seed(0))
task.pairs[split.train], task.labels[split.train]     # 3830 of the 12769 pairs
task.stability(0.5)                                   # where a model that has generalised must end
"""

from nslab.tasks.electorate import Electorate, electoral_college
from nslab.tasks.modular import ModularArithmetic
from nslab.tasks.parity import SparseParity
from nslab.tasks.partners import Partners
from nslab.tasks.splits import Split, split_pairs

__all__ = ["Electorate", "ModularArithmetic", "Partners", "SparseParity", "Split", "electoral_college", "split_pairs"]
