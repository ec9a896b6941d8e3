"""Small networks and how they are trained: what studies, suites and the demo merge."""
