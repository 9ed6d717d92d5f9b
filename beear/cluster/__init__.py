"""The work on a Ray cluster: connection, tasks, actor pools, training workers, scoring."""
