"""What of an image does the model's answer tell, and how well?"""
