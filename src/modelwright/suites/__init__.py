"""Families of models and tasks, and the sweeps of methods over them."""

from modelwright.suites._cache import Cache as Cache
from modelwright.suites._family import Family as Family
from modelwright.suites._suite import SUITES as SUITES, Suite as Suite, suite as suite
