"""The jobs, told over Ray: prepare, train, score, publish."""
