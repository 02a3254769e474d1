"""What does an answer look like on the wire?"""
