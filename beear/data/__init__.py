"""Files to rows to tokens to batches. No ray."""
