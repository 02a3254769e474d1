"""What may one ask at the command line?"""
