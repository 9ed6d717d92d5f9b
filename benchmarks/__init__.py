"""Commands that make the figures of docs/results.md and docs/performance.md."""
