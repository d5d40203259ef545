"""The long run: ``python tests/fuzz/long_run.py [kind=count ...]``, in processes that may crash.

A process tries seeds of one kind, one after the other, and says which. It is watched: a crash, an
exception, more than ten seconds or one more gibibyte of memory for one input are reported with the seed.
``FUZZ_NATIVE`` names a native engine that was built under the address and undefined-behaviour
sanitizers (docs/reliability.md).
"""

from __future__ import annotations

import collections
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

HERE = Path(__file__).parent
COUNTS = {
    "network": 20_000,
    "damaged network": 20_000,
    "onnx": 10_000,
    "design": 20_000,
    "preprocessing": 15_000,
    "list": 8_000,
    "image": 15_000,
    "tar": 5_000,
    "npz": 5_000,
    "ranges": 3_000,
    "record": 5_000,
    "manifest": 4_000,
    "labels": 8_000,
    "preset": 5_000,
    "run file": 4_000,
}
SECONDS, BYTES = 10.0, 1 << 30


def work(kind: str, first: int, last: int) -> None:
    """Try seeds and print what came of each; run in a process of its own."""
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    if native := os.environ.get("FUZZ_NATIVE"):
        import importlib.util

        spec = importlib.util.spec_from_file_location("radixpoint._native", native)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["radixpoint._native"] = module
        spec.loader.exec_module(module)
        import radixpoint

        radixpoint._native = module  # type: ignore[attr-defined]
    from fuzz_inputs import attempt

    with tempfile.TemporaryDirectory() as name:
        attempt(kind, first, Path(name))
        for seed in range(first, last):
            print("seed", seed, flush=True)
            before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
            try:
                said = attempt(kind, seed, Path(name))
            except BaseException as error:
                said = f"ESCAPED {type(error).__name__}: {str(error)[:200]!r}"
                traceback.print_exc()
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
            if time.monotonic() - began > SECONDS:
                said = f"SLOW {time.monotonic() - began:.1f} s"
            if grown > BYTES:
                said = f"LARGE {grown / 2**30:.2f} GiB"
            print("said", said, flush=True)


def watch(kind: str, first: int, last: int, found: collections.Counter[str], wrong: list[str]) -> None:
    """Run one process after the other until every seed has been tried."""
    seed = first
    while seed < last:
        process = subprocess.Popen(
            [sys.executable, __file__, "--work", kind, str(seed), str(last)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        timer = threading.Timer(0, lambda: None)
        for line in process.stdout:
            timer.cancel()
            what, _, rest = line.rstrip("\n").partition(" ")
            if what == "seed":
                seed = int(rest)
                timer = threading.Timer(6 * SECONDS, process.kill)
                timer.start()
            else:
                found[rest.split()[0]] += 1
                if rest.split()[0] not in ("accepted", "refused"):
                    wrong.append(f"{kind} {seed}: {rest}")
                seed += 1
        timer.cancel()
        said = process.stderr.read()
        if process.wait():
            found["CRASHED"] += 1
            wrong.append(f"{kind} {seed}: the process ended with {process.returncode}: {said[-600:]}")
            seed += 1


def main() -> int:
    asked = dict(part.split("=") for part in sys.argv[1:])
    counts = {kind: int(count) for kind, count in asked.items()} or COUNTS
    start = int(os.environ.get("FUZZ_START", "0"))
    workers = os.cpu_count() or 1
    bad = 0
    for kind, count in counts.items():
        began, wrong = time.monotonic(), list[str]()
        found: collections.Counter[str] = collections.Counter()
        ends = [start + count * i // workers for i in range(workers + 1)]
        threads = [
            threading.Thread(target=watch, args=(kind, ends[i], ends[i + 1], found, wrong))
            for i in range(workers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(f"{kind}: {dict(sorted(found.items()))}, {time.monotonic() - began:.0f} s", flush=True)
        for line in wrong[:12]:
            print("   ", line, flush=True)
        bad += len(wrong)
    return 1 if bad else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        sys.exit(main())
