"""What a build and a run both stand in: the walls around code that is not ours."""
