"""The demo as a Greengrass deployment: the real component under the simulated nucleus, updated in three ways."""
