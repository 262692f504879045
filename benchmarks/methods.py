"""Every row that a report can have: importing this registers the references, the guards and the weight editing."""

from unlearn_guard.benchmarks import guard_rows, weight_rows
from unlearn_guard.benchmarks.subjects import SUBJECTS

__all__ = ["SUBJECTS", "guard_rows", "weight_rows"]
