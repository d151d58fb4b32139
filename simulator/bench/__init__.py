"""Benchmarks that anyone can repeat: each compares inside one run, interleaved, and reports medians."""
