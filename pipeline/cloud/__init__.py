"""Shared by the commands of the cloud side: dispatch, AWS clients and object storage."""
