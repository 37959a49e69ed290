"""What do you expect, before you see it?"""
