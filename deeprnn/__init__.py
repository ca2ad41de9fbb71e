"""Stacked recurrent networks, written in several ways, and the character model they train."""
