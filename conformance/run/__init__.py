"""Running: jobs in worker processes, and the adapters of the candidates."""
