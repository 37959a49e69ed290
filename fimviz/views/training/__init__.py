"""What does training do to the Fisher information?"""
