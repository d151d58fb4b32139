"""Where a component learns of releases: its configuration, model components, and the named shadow."""
