"""Verilator's OBJCACHE for the tests: its runtime, the same in every testbench, is compiled once.

    OBJCACHE="python tests/objcache.py FOLDER" make -f Vtestbench.mk

The rest of the command is the compiler's. An object is known by the whole command, the source's text, and the
compiler's version; what is no part of the runtime is compiled as it is.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path


def main(folder: Path, command: list[str]) -> int:
    source = Path(command[-1])
    if not (source.is_absolute() and source.name.startswith("verilated") and command[-3] == "-o"):
        return subprocess.call(command)
    version = subprocess.run([command[0], "--version"], capture_output=True, check=True).stdout
    known = hashlib.sha256(repr(command).encode() + source.read_bytes() + version).hexdigest()
    kept, made = folder / f"{known}.o", Path(command[-2])
    if not kept.exists():
        if status := subprocess.call(command):
            return status
        folder.mkdir(parents=True, exist_ok=True)
        own = folder / f"{known}.{os.getpid()}"
        shutil.copyfile(made, own)
        own.replace(kept)
    shutil.copyfile(kept, made)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
