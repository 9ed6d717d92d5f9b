"""The epoch loop, and the session of a worker that runs it. Imports no ray."""
