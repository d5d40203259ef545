"""The native engine: ``isa`` (what the machine has), ``stage``, ``planner`` and ``engine``."""

from radixpoint.engines.native.engine import NativeEngine
from radixpoint.engines.native.isa import chosen_instruction_set, instruction_sets

__all__ = ["NativeEngine", "chosen_instruction_set", "instruction_sets"]
