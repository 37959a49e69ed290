"""How far is it to another class, and which classes are met on the way?"""
