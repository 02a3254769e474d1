"""May this call happen, and with which words?"""
