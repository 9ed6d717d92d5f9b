"""The training plan carried out by Ray Data."""
