"""The epoch loop and a worker's session around it. No ray."""
