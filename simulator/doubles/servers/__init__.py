"""Servers of the cloud on the loopback: releases, S3, device shadow."""
