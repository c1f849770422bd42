"""What a function means: its own definition and every definition it can reach, without what only people read."""

from kd_course._definitions.meaning import meaning, reachable

__all__ = ["meaning", "reachable"]
