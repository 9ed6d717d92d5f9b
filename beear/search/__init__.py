"""The search for settings: Ray Tune around trainings that are the main job's own."""
