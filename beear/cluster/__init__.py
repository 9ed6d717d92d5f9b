"""All that knows Ray: connection, tasks, actor pools, training workers, scoring."""
