"""Why accuracy fell, what to change, and where a dump differs: answers that are measured, never guessed."""
