"""What happens to a call from arrival to settlement?"""
