"""Argument checks, one sentence each: what, where, value, cure."""
