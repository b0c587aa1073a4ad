"""Hyperparameter optimization for a classifier that reads RUST scores off radiographs.

RUST is the Radiographic Union Score for Tibial fractures; the name has nothing to do with the language.

Imports point down only: ``cli`` → ``run`` → ``search`` → ``learn`` → ``data`` → ``config``, ``paths``, ``errors``. See
``docs/architecture.md``.
"""

__version__ = "0.1.0"
