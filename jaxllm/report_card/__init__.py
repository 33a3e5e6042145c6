"""The report card of a loss: properties that every loss must have, tested on small random data."""
