"""Which settings are in force, and where does each come from?"""

from config.settings import *  # noqa: F403
