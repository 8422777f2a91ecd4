"""Records: what an experiment leaves behind, written whole or not at all, and read with its age told.

A record is a folder `book/records/<experiment>/<preset>-<device>-<UTC time>/` of at most 2 MB, never overwritten:

- `config.json`, `history.npz`, `result.json`: the same bits for the same seed, machine type and threads on the CPU;
- `run.json`: versions, hardware, seconds, memory, hashes of the sources and of the other files;
- what the experiment adds, such as the weights of a model.

    from nslab import records
    record = records.strongest("char-gpt")          # or None
    steps, loss = record.series("loss")
    print(record.result, record.hardware, record.stale_because)

An experiment writes through a `RunLog`; `perform` runs one and makes the record. Reading needs no torch.
"""

from nslab.records.files import RecordError
from nslab.records.log import RunLog
from nslab.records.partial import Partial, unfinished
from nslab.records.places import root
from nslab.records.reading import Record, find, open_record, strongest, survey
from nslab.records.running import Experiment, perform
from nslab.records.settings import changed, nearest
from nslab.records.sources import file_hashes, source_hash

__all__ = [
    "Experiment",
    "Partial",
    "Record",
    "RecordError",
    "RunLog",
    "changed",
    "file_hashes",
    "find",
    "nearest",
    "open_record",
    "perform",
    "root",
    "source_hash",
    "strongest",
    "survey",
    "unfinished",
]
