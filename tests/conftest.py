"""``training/`` holds torchvision's ResNet as a module; Verilator's runtime is compiled once for all."""

import os
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "training"))
CACHED = [sys.executable, str(ROOT / "tests" / "objcache.py"), str(ROOT / "build" / "verilated")]
os.environ.setdefault("OBJCACHE", shlex.join(CACHED))
