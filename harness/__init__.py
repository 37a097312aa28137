"""The service as a process that tests and benchmarks start, watch and kill."""
