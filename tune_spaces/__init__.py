"""Search spaces, one file per model family: dotted config path to search domain."""
