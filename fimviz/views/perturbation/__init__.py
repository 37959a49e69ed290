"""What does the worst direction look like, and what does it do?"""
