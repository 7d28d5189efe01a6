"""Tenfold: ten research systems of 2024 as software that people can depend on."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__: str = version("tenfold")
"""The installed version, as in `pip show tenfold`."""
