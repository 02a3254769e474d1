"""What is known of the call afterwards?"""
