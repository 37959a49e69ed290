"""How do models compare, and does a formula rank them?"""
