"""The ``scidyn`` command."""
