"""Small random models, checkpoints and batches for tests and benchmarks, also those of packages that extend this one."""
