"""How does a call become spans?"""
