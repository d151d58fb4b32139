"""Sources of releases in a component: its configuration, model components, and the named shadow."""
