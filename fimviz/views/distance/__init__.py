"""How far can an image be moved with a proof, and how far until an attack succeeds?"""
