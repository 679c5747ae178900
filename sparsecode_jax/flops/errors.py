"""Exceptions of the FLOP-accounting transform.

Each says what could not be counted exactly, where it is in the program, and what to do instead.
A count that is not exact is never returned as a number: it is one of these.
"""


class FlopCountError(ValueError):
    """Base class: something about a FLOP count cannot be exact."""


class UnknownPrimitiveError(FlopCountError):
    """An operation has no counting rule, or does work that its shapes do not determine."""


class OpenTripCountError(FlopCountError):
    """A total was asked for, but how often some block runs is known only at run time."""


class SaturatedCounterError(FlopCountError, OverflowError):
    """A block ran more often than its counter can hold."""
