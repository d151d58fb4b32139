"""What `kensa doctor` looks at, one module for each part of a site."""
