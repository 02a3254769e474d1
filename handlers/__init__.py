"""How does HTTP become a call, and a call HTTP?"""
