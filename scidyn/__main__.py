"""``python -m scidyn`` is the ``scidyn`` command."""

from scidyn.cli.main import run

if __name__ == "__main__":
    run()
