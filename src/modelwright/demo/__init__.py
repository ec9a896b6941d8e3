"""`mw demo`: train small experts offline, merge them with every method, and show honestly what came of it."""

from modelwright.demo._run import DemoResult as DemoResult, run as run
