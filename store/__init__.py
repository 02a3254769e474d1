"""Where does what outlasts a call live?"""
