"""What would go wrong here?"""
