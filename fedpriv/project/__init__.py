"""A small project of one's own that runs at once: made-up people, a network, a configuration, a notebook, a test."""

from fedpriv.project.write import write_project

__all__ = ["write_project"]
