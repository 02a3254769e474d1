"""How do recordings stand in for a provider?"""
