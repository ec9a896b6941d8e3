"""Tables, plots and pages that open offline."""
