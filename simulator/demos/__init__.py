"""The demos: a line, a Greengrass deployment, and the improvement cycle in the cloud."""
