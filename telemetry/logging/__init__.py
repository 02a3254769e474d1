"""How does a record become a line?"""
