"""The cloud on a laptop: moto's services in this process, with what moto leaves out filled in. See `local.LocalAws`."""
