"""How far apart are predictions, and how much of that does F know of?"""
