"""Run the benchmarks, print the table and write a record: `python -m tests.benchmarks [module ...] [--no-record]`."""

import argparse
import importlib
import time
from pathlib import Path

from tests.benchmarks.harness import one_thread, record, show


def main() -> None:
    """Run the chosen modules, or all of them."""
    here = Path(__file__).parent
    modules = sorted(path.stem for path in here.glob("*.py") if path.stem not in ("__init__", "__main__", "harness"))
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("modules", nargs="*", help=f"some of {', '.join(modules)}; all if none is named")
    parser.add_argument("--no-record", action="store_true", help="print only")
    chosen = parser.parse_args()
    if unknown := set(chosen.modules) - set(modules):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}: choose from {', '.join(modules)}")

    one_thread()
    start = time.perf_counter()
    rows = []
    for name in chosen.modules or modules:
        print(f"{name} ...", flush=True)
        rows += importlib.import_module(f"tests.benchmarks.{name}").rows()
    print(f"\n{show(rows)}")
    if not chosen.no_record:
        folder = record(rows, time.perf_counter() - start, preset="-".join(chosen.modules) or "all")
        print(f"\nrecorded in {folder.relative_to(here.parents[1])}")


if __name__ == "__main__":
    main()
