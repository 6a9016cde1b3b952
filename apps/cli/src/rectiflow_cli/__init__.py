"""The ``rectiflow`` command: one front door to every domain that is installed."""
