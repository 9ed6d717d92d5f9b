"""One file per command, of its pipeline's name: the story of each, told in order."""
