"""The developer's loop."""
