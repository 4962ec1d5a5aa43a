"""The workloads, one file each; the letters are those of the budgets in `docs/benchmarks.md`."""

from __future__ import annotations

from typing import Final

from bench.cases import Case
from bench.workloads import replicas, w1, w2, w3, w4, w5, w7, w8

CASES: Final[tuple[Case, ...]] = (
    *w1.CASES, *w2.CASES, *w3.CASES, *w4.CASES, *w5.CASES, *w7.CASES, *w8.CASES, *replicas.CASES,
)  # fmt: skip
