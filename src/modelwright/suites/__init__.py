"""Families of models and tasks, and the sweeps of methods over them."""

from modelwright.suites._cache import Cache as Cache
from modelwright.suites._cells import Cell as Cell, Cells as Cells
from modelwright.suites._family import Family as Family
from modelwright.suites._leaderboard import Leaderboard as Leaderboard, Line as Line, leaderboard as leaderboard
from modelwright.suites._pool import pooled as pooled
from modelwright.suites._search import Judge as Judge, Trial as Trial, candidates as candidates
from modelwright.suites._settings import Settings as Settings
from modelwright.suites._suite import SUITES as SUITES, Suite as Suite, suite as suite
from modelwright.suites._sweep import Sweep as Sweep, sweep as sweep
