"""The agent as an AWS IoT Greengrass component. The only package that may import the Greengrass SDK."""
