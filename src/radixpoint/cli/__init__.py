"""The command line, a file a command. No rule of the domain lives here: Python does the same."""
