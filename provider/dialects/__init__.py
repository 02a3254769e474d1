"""What does a provider's wire mean?"""
