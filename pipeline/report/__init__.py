"""Reports on releases, candidates and the plant, from one set of templates and charts."""
