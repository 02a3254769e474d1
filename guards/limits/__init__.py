"""May this caller call now?"""
