"""With which words may the call go on?"""
