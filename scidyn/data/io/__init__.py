"""Durable files: atomic writes and checked model folders."""
