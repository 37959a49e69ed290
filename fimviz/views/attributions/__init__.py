"""Does the model look where it is fragile?"""
