"""Arithmetic: formats, rounding, overflow and the one cast; ``docs/arithmetic.md``, executable."""
