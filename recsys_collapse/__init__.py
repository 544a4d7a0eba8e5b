"""recsys_collapse: embedding collapse of recommendation models, measured and remedied.

Importing the package imports nothing heavy; torch and Lightning come with the modules that use them.
"""

__version__ = "0.1.0"
