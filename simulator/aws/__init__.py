"""AWS services in this process: moto, and what moto leaves out. See `local_aws.LocalAws`."""
