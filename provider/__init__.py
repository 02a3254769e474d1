"""How is the provider called safely?"""
