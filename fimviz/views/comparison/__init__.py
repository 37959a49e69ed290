"""How close do formulas and estimates come to the truth?"""
