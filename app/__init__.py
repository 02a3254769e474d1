"""How are the parts wired, started, changed, multiplied over cores, stopped?"""
