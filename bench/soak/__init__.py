"""An hour of mixed load with a kill each second, and what must be as before when it is over."""
