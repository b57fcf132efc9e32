"""Measurements of the trainer's parts. Import what you need from the modules; this file imports nothing."""
