"""Benchmarks: they measure and print, they never assert. `make bench` or `make bench BENCH=<name>`."""
